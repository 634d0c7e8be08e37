"""The training loop: plain PyTorch, which also runs without Ray.

Nothing waits for the device within an epoch. Under `torch.distributed` each worker takes its share
of every global batch, and all of them hold the same weights.

Shapes: N images of a split; B images of a batch on this worker.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mnist_ocr.digits.model import Model
from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import UsageError
from mnist_ocr.training.batches import BatchSource, scale
from mnist_ocr.training.datasets import Dataset, Split
from mnist_ocr.training.distillation import Committee
from mnist_ocr.training.epoch_sums import EpochSums, EpochTotals
from mnist_ocr.training.loss import compute_loss
from mnist_ocr.training.metrics import EpochMetrics
from mnist_ocr.training.optimization import build_optimizer, compute_learning_rate
from mnist_ocr.training.recipes import Recipe


def build_loop(
    recipe: Recipe,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    initial: Model | None = None,
    teachers: Sequence[Model] = (),
) -> "TrainingLoop":
    """Set a run up as a recipe says.

    Args:
        recipe: How to train.
        dataset: What to train on; its test images are not touched.
        seed: Seeds weights, order and distortion.
        device: Where to train.
        initial: A model of the recipe's architecture whose weights, and pixel scale, to start from.
        teachers: Models to learn from beside the labels.

    Raises:
        UsageError: The architecture is not known.
    """
    torch.manual_seed(seed)
    network = build_network(recipe.architecture)
    if initial is not None:
        network.load_state_dict(safetensors.torch.load(initial.weights))
        mean, std = initial.info.mean, initial.info.std
    elif recipe.normalization == "dataset":
        mean, std = dataset.pixel_statistics()
    else:
        mean, std = {"symmetric": (0.5, 0.5), "unit": (0.0, 1.0)}[recipe.normalization]
    return TrainingLoop(
        network,
        recipe,
        dataset.train,
        dataset.validation,
        mean=mean,
        std=std,
        seed=seed,
        device=device,
        committee=Committee(teachers, device) if teachers else None,
    )


class TrainingLoop:
    """One training run: network, optimiser, schedule and the average of the weights.

    Args:
        network: (B, 1, 28, 28) float32 to (B, 10) logits; trained in place.
        recipe: How to train it.
        train: Training images and labels.
        validation: Held-out images and labels; they never change the weights.
        mean: What is subtracted from the pixels, on a scale from 0 to 1.
        std: What they are then divided by, on the same scale.
        seed: Seeds the order and the distortion of the images.
        device: Where everything lives.
        committee: Gives a share of the targets, if there is one.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        train: Split,
        validation: Split,
        *,
        mean: float,
        std: float,
        seed: int,
        device: torch.device,
        committee: Committee | None = None,
    ) -> None:
        self.rank, self.world_size = 0, 1
        if dist.is_initialized():
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.recipe, self.mean, self.std, self.device = recipe, mean, std, device
        self.batches = BatchSource(
            train, recipe, seed=seed, device=device, rank=self.rank, world_size=self.world_size
        )
        own = slice(self.rank, None, self.world_size)
        self.validation_images = torch.tensor(validation.images[own], device=device)
        self.validation_labels = torch.tensor(validation.labels[own], device=device)

        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.model: nn.Module = self.network
        if self.world_size > 1:
            self.model = DistributedDataParallel(self.network, forward_sync_buffers=False)
        self.ema_network = copy.deepcopy(self.network).requires_grad_(False)
        # All but batch normalisation's count of batches.
        self._averages, self._values = (
            [value for value in network.state_dict().values() if value.is_floating_point()]
            for network in (self.ema_network, self.network)
        )

        self.committee = committee
        self.optimizer = build_optimizer(self.network, recipe)
        self.history: list[EpochMetrics] = []
        self.sums = EpochSums(device)
        """Of the epoch that comes next, or runs."""

    def run(self, after_step: Callable[[], None] = lambda: None) -> Iterator[EpochMetrics]:
        """Train epoch by epoch, from where the run is; after the last, `ema_network` counts.

        Args:
            after_step: Called after each step.

        Raises:
            UsageError: The loss is no longer a finite number.
        """
        for epoch in range(len(self.history), self.recipe.num_epochs):
            self.history.append(self._run_epoch(epoch, after_step))
            self.sums = EpochSums(self.device)
            yield self.history[-1]

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next step depends on, beside its number: the same state, the same result.

        Order and distortion are drawn anew from (seed, epoch, step).
        """
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"ema.{name}": value for name, value in self.ema_network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        return state

    def load_state_dict(
        self,
        state: Mapping[str, Tensor],
        history: list[EpochMetrics],
        progress: EpochTotals | None = None,
    ) -> None:
        """Continue a run: what `state_dict` returned, and what it had behind it."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            if part == "optimizer":
                index, _, moment = rest.partition(".")
                moments.setdefault(int(index), {})[moment] = value
            else:
                parts[part][rest] = value
        self.network.load_state_dict(parts["network"])
        self.ema_network.load_state_dict(parts["ema"])
        for number, parameter in enumerate(self.network.parameters()):
            for name, value in moments.get(number, {}).items():
                if value.shape == parameter.shape:
                    # fused kernels go by memory order, which is the parameter's
                    moments[number][name] = torch.empty_like(parameter).copy_(value)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.history = list(history)
        if progress:
            # one worker counts for all what they had counted together
            own = progress if self.rank == 0 else EpochTotals(progress.num_steps)
            self.sums = EpochSums(self.device, own)

    def _run_epoch(self, epoch: int, after_step: Callable[[], None]) -> EpochMetrics:
        train = self._train_epoch(epoch, after_step)
        start = time.perf_counter()
        validation = self._validate()
        if not math.isfinite(train.loss + validation.loss):
            raise UsageError(
                f"Training diverged: the loss of epoch {epoch + 1} is {train.loss}. "
                f"Pass a --learning-rate below {self.recipe.learning_rate:g}."
            )
        return EpochMetrics(
            epoch=epoch + 1,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            learning_rate=self._learning_rate_at((epoch + 1) * self.batches.steps_per_epoch - 1),
            images_per_s=self.batches.images_per_epoch / train.seconds,
            seconds=train.seconds + time.perf_counter() - start,
            num_workers=self.world_size,
        )

    def _train_epoch(self, epoch: int, after_step: Callable[[], None]) -> EpochTotals:
        """Take the steps that are left of an epoch."""
        self.network.train()
        self.sums.go_on()
        for batch in self.batches.draw_batches(epoch, self.sums.num_steps):
            step = epoch * self.batches.steps_per_epoch + self.sums.num_steps
            self._set_learning_rate(step)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
            ):
                logits = self.model(self._normalize(batch.inputs)).float()
                loss, outlier_loss = compute_loss(
                    logits, batch, self.recipe.label_smoothing, self.committee
                )
            self.optimizer.zero_grad()
            # DDP takes the mean of the workers' gradients: of sums, scaled so, it is the batch's.
            total = (loss + outlier_loss) * (self.world_size / batch.global_size)
            total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self._update_average(step)
            self.sums.add(loss.detach(), logits.detach()[: len(batch.labels)], batch.labels)
            after_step()
        return self.sums.sum_over_workers()

    def _set_learning_rate(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate_at(step)

    def _learning_rate_at(self, step: int) -> float:
        return compute_learning_rate(
            self.recipe, step / (self.recipe.num_epochs * self.batches.steps_per_epoch)
        )

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        # Growing decay: the average forgets the first, random weights soon.
        decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)

    def _validate(self) -> EpochTotals:
        """Loss and accuracy of the averaged weights; each worker reads its share."""
        labels = self.validation_labels
        logits = self._compute_logits(self.validation_images)
        sums = EpochSums(self.device)
        sums.add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
        return sums.sum_over_workers()

    def compute_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Read images with the averaged weights: (N, 28, 28) uint8 to (N, 10) float32."""
        return self._compute_logits(torch.tensor(images)).numpy(force=True)

    @torch.no_grad()
    def _compute_logits(self, images: Tensor) -> Tensor:
        self.ema_network.eval()
        batches = (
            self._normalize(scale(batch.to(self.device))) for batch in torch.split(images, 1000)
        )
        return torch.cat([self.ema_network(batch) for batch in batches])

    def _normalize(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std
