"""The training loop: plain PyTorch, which also runs without Ray.

The whole dataset stays on the device as uint8, batches are gathered and distorted there, and
nothing waits for the device within an epoch. Under `torch.distributed` each worker takes its
slice of every *global* batch; order and distortion are drawn for the global batch, so the number
of workers changes the result by float noise only.

Shapes: N images of a split; B images of a batch on this worker; S steps in an epoch.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mnist_ocr.errors import UsageError
from mnist_ocr.training.augmentation import BatchAugmenter
from mnist_ocr.training.datasets import Split
from mnist_ocr.training.recipes import Recipe


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch did, over all workers."""

    epoch: int
    """Number of epochs finished."""
    train_loss: float
    """Mean cross-entropy of the weights being trained, on distorted images, in nats."""
    train_accuracy: float
    """Share of those images read rightly."""
    validation_loss: float
    """Mean cross-entropy of the averaged weights, in nats."""
    validation_accuracy: float
    """Share of validation images that the averaged weights read rightly."""
    learning_rate: float
    """Learning rate after the last step."""
    images_per_s: float
    """Training speed over all workers, validation left out."""
    seconds: float
    """Duration of the epoch, validation included."""


class TrainingLoop:
    """One training run: network, optimiser, schedule and the average of the weights.

    Args:
        network: (B, 1, 28, 28) float32 to (B, 10) logits; trained in place.
        recipe: How to train it.
        train: Training images and labels.
        validation: Held-out images and labels; they never change the weights.
        mean: Mean of the training pixels, on a scale from 0 to 1.
        std: Their standard deviation, on the same scale.
        seed: Seeds the order and the distortion of the images.
        device: Where everything lives.
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
    ) -> None:
        self.rank, self.world_size = 0, 1
        if dist.is_initialized():
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        assert recipe.batch_size % self.world_size == 0, "workers share a batch evenly"
        assert recipe.batch_size <= len(train.labels), "a batch holds no image twice"
        self.recipe, self.mean, self.std, self.seed, self.device = recipe, mean, std, seed, device

        self.images = torch.tensor(train.images, device=device)
        self.labels = torch.tensor(train.labels, device=device)
        own = slice(self.rank, None, self.world_size)
        self.validation_images = torch.tensor(validation.images[own], device=device)
        self.validation_labels = torch.tensor(validation.labels[own], device=device)
        self.augmenter = None
        if recipe.augmentation is not None:
            self.augmenter = BatchAugmenter(recipe.augmentation, device, seed)

        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.model: nn.Module = self.network
        if self.world_size > 1:
            self.model = DistributedDataParallel(self.network, forward_sync_buffers=False)
        self.ema_network = copy.deepcopy(self.network).requires_grad_(False)

        num_batches = len(train.labels) // recipe.batch_size
        self.num_passes = math.ceil(recipe.min_steps_per_epoch / num_batches)
        self.steps_per_epoch = num_batches * self.num_passes
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=recipe.learning_rate,
            # One more than there are steps: it is asked for the rate after the last one too.
            total_steps=recipe.num_epochs * self.steps_per_epoch + 1,
            cycle_momentum=False,
        )

    def run(self) -> Iterator[EpochMetrics]:
        """Train epoch by epoch; after the last, `ema_network` is the result.

        Raises:
            UsageError: The loss is no longer a finite number.
        """
        for epoch in range(self.recipe.num_epochs):
            yield self._run_epoch(epoch)

    def _run_epoch(self, epoch: int) -> EpochMetrics:
        start = time.perf_counter()
        train_loss, train_accuracy = self._train_epoch(epoch)
        train_seconds = time.perf_counter() - start
        if not math.isfinite(train_loss):
            raise UsageError(
                f"Training diverged: the loss of epoch {epoch + 1} is {train_loss}. "
                f"Pass a --learning-rate below {self.recipe.learning_rate:g}."
            )
        validation_loss, validation_accuracy = self._validate()
        return EpochMetrics(
            epoch=epoch + 1,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=float(self.schedule.get_last_lr()[0]),
            images_per_s=self.steps_per_epoch * self.recipe.batch_size / train_seconds,
            seconds=time.perf_counter() - start,
        )

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """Take every step of an epoch and return the mean loss and the accuracy."""
        self.network.train()
        # Summed on the device, so that no step waits for a number.
        loss_sum = torch.zeros((), device=self.device)
        num_right = torch.zeros((), device=self.device)
        order = self._draw_order(epoch)
        for step, indices in enumerate(order):
            labels = self.labels[indices]
            logits = self.model(self._load_inputs(indices, epoch, step))
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            self._update_average(epoch * self.steps_per_epoch + step)
            loss_sum += loss.detach() * len(labels)
            num_right += (logits.detach().argmax(1) == labels).sum()
        return self._average_over_workers(loss_sum, num_right, order.numel())

    def _draw_order(self, epoch: int) -> Tensor:
        """Draw this worker's (S, B) int64 indices; each pass leaves an incomplete batch out."""
        rng = np.random.default_rng([self.seed, epoch])
        batch_size = self.recipe.batch_size
        length = len(self.labels) // batch_size * batch_size
        passes = [rng.permutation(len(self.labels))[:length] for _ in range(self.num_passes)]
        order = np.concatenate(passes).reshape(-1, self.world_size, batch_size // self.world_size)
        return torch.from_numpy(order[:, self.rank]).to(self.device)

    def _load_inputs(self, indices: Tensor, epoch: int, step: int) -> Tensor:
        """Gather, distort and normalise a batch: (B,) int64 to (B, 1, 28, 28) float32."""
        inputs = _scale(self.images[indices])
        if self.augmenter is not None:
            inputs = self.augmenter(
                inputs,
                epoch=epoch,
                step=step,
                batch_size=self.recipe.batch_size,
                offset=self.rank * len(indices),
            )
        return self._normalize(inputs)

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        # Growing decay: the average forgets the first, random weights soon.
        decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
        averages, values = self.ema_network.state_dict(), self.network.state_dict()
        for name, value in values.items():
            if value.is_floating_point():  # all but batch normalisation's count of batches
                averages[name].lerp_(value, 1 - decay)

    def _validate(self) -> tuple[float, float]:
        """Return loss and accuracy of the averaged weights; each worker reads its share."""
        labels = self.validation_labels
        logits = self._compute_logits(self.validation_images)
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        num_right = (logits.argmax(1) == labels).sum()
        return self._average_over_workers(loss_sum, num_right, len(labels))

    def compute_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Read images with the averaged weights: (N, 28, 28) uint8 to (N, 10) float32."""
        return self._compute_logits(torch.tensor(images)).numpy(force=True)

    @torch.no_grad()
    def _compute_logits(self, images: Tensor) -> Tensor:
        self.ema_network.eval()
        batches = (
            self._normalize(_scale(batch.to(self.device))) for batch in torch.split(images, 1000)
        )
        return torch.cat([self.ema_network(batch) for batch in batches])

    def _normalize(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std

    def _average_over_workers(
        self, loss_sum: Tensor, num_right: Tensor, count: int
    ) -> tuple[float, float]:
        sums = torch.stack([loss_sum, num_right, loss_sum.new_tensor(count)])
        if self.world_size > 1:
            dist.all_reduce(sums)
        loss, right, total = sums.tolist()
        return loss / total, right / total


def _scale(images: Tensor) -> Tensor:
    """Turn (B, 28, 28) uint8 into (B, 1, 28, 28) float32 from 0 to 1."""
    return images.unsqueeze(1).float() / 255
