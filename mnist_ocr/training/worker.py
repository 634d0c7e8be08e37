"""What runs on each worker of Ray Train: the loop, its checkpoints, the model at the end.

All workers hold the same weights. Worker 0 alone writes: it saves the state after each epoch, and
every few seconds once a node is to go; calibrates after the last epoch, reads the test images once,
and writes the model directory.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import ray
import ray.train.torch
import torch
import torch.distributed as dist
from ray.util.queue import Queue

from mnist_ocr.digits.model import Model, save_model
from mnist_ocr.digits.networks import count_parameters
from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.storage import Store, open_store
from mnist_ocr.training.calibrating import fit_calibration
from mnist_ocr.training.checkpoints import read_checkpoint, restore_checkpoint, save_checkpoint
from mnist_ocr.training.config import TrainConfig
from mnist_ocr.training.datasets import Dataset
from mnist_ocr.training.epoch_sums import EpochTotals
from mnist_ocr.training.loop import TrainingLoop, build_loop
from mnist_ocr.training.recipes import Recipe

Result = TypeVar("Result")

ray_v2: Any = ray
"""Ray as it is at run time: its type hints are those of Ray Train v1."""

LOOK_INTERVAL_S = 2.0
"""Between looks for a preemption, about. Each is a barrier over the workers, of milliseconds."""

FIRST_LOOK, MAX_GROWTH = 16, 16
"""Steps before the first look, and how many times more there may be before the next."""


@dataclass(frozen=True)
class TrainResult:
    """What a training run reports; every value can be written as JSON."""

    model_uri: str
    """Where the model directory was written: an absolute path or a URI."""
    dataset: str
    recipe: str
    num_workers: int
    """Workers at the end."""
    num_epochs: int
    num_parameters: int
    test_accuracy: float
    """Share of the test images read rightly, by the averaged weights after the last epoch."""
    validation_accuracy: float
    validation_loss: float
    """Mean cross-entropy in nats, before calibration."""
    min_risk: float | None
    """Smallest --max-risk at which `label` accepts any row; None if there is none."""
    images_per_s: float
    """Training speed of the last epoch, over all workers."""
    train_s: float
    """Sum of the epochs' durations, in seconds."""


@dataclass(frozen=True)
class TrainingRun:
    """What every worker is told."""

    run_id: str
    """Names the run whose checkpoint may be continued."""
    config: TrainConfig
    recipe: Recipe
    model_uri: str
    inputs: "ray.ObjectRef[tuple[Dataset, Model | None, list[Model]]]"
    """The dataset, the model to start from, and the teachers."""
    progress: Queue
    """Takes the history after each epoch, and lines for a person."""


def train_loop_per_worker(run: TrainingRun) -> TrainResult | Exception | None:
    """Train on one worker; worker 0 returns the result.

    An error that a person can act on is returned, by all workers at once; what is raised makes Ray
    start all of them again.
    """
    try:
        return _train(run)
    except (UsageError, ConnectionError, ObjectError) as error:
        return error
    except Exception as error:
        run.progress.put(f"a worker failed: {type(error).__name__}: {error}")
        raise


def _train(run: TrainingRun) -> TrainResult | None:
    device = ray.train.torch.get_device()
    if run.config.use_gpu and device.type != "cuda":
        raise UsageError(
            f"torch {torch.__version__} finds no GPU on {socket.gethostname()}. Install one "
            "with CUDA there, or leave out use_gpu."
        )
    dataset, initial, teachers = ray.get(run.inputs)
    store = open_store(run.model_uri)
    loop = build_loop(
        run.recipe,
        dataset,
        seed=run.config.seed,
        device=device,
        initial=initial,
        teachers=teachers,
    )
    # Worker 0 alone reads: two reads might find different checkpoints.
    content = _do_on_first(loop, lambda: read_checkpoint(store))
    note = content and restore_checkpoint(content, run.run_id, loop)
    if loop.rank == 0 and note:
        run.progress.put(note)
    if loop.rank == 0 and loop.history:
        run.progress.put(list(loop.history))
    watch = PreemptionWatch(loop, lambda: _save_within_epoch(run, store, loop))
    for _ in loop.run(watch.after_step):
        _do_on_first(loop, lambda: _save_epoch(run, store, loop))
    return _do_on_first(loop, lambda: _save_result(run, dataset, loop))


def _do_on_first(loop: TrainingLoop, action: Callable[[], Result]) -> Result:
    """Let worker 0 act, and all workers have what came of it, also if that is an error.

    Workers that were not told would wait for the others for half an hour.
    """
    outcome: list[Result | Exception | None] = [None]
    if loop.rank == 0:
        try:
            outcome = [action()]
        except (UsageError, ConnectionError, ObjectError) as error:
            outcome = [error]
    if loop.world_size > 1:
        dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return cast(Result, outcome[0])


class PreemptionWatch:
    """Saves the run when a node that it runs on is to go, and again until it goes.

    All workers have to look after the same step, and none of them may wait for the others at each:
    they agree on the number of steps until the next look.

    Args:
        loop: The run.
        save: Saves it; called by all workers.
    """

    def __init__(self, loop: TrainingLoop, save: Callable[[], None]) -> None:
        self._loop, self._save = loop, save
        self._interval = self._num_left = FIRST_LOOK
        self._looked_at = time.monotonic()

    def after_step(self) -> None:
        """Look, if it is time."""
        self._num_left -= 1
        if self._num_left:
            return
        if ray_v2.train.get_preemption_info() is not None:
            self._save()
        self._interval = self._num_left = _do_on_first(self._loop, self._plan)
        self._looked_at = time.monotonic()

    def _plan(self) -> int:
        """Steps until the next look, from the time that the last ones took."""
        num_steps = self._interval * LOOK_INTERVAL_S / (time.monotonic() - self._looked_at)
        return max(1, round(min(num_steps, self._interval * MAX_GROWTH)))


def _save_within_epoch(run: TrainingRun, store: Store, loop: TrainingLoop) -> None:
    progress = loop.sums.sum_over_workers()
    _do_on_first(loop, lambda: _save(run, store, loop, progress))


def _save_epoch(run: TrainingRun, store: Store, loop: TrainingLoop) -> None:
    _save(run, store, loop)
    run.progress.put(list(loop.history))


def _save(
    run: TrainingRun, store: Store, loop: TrainingLoop, progress: EpochTotals | None = None
) -> None:
    within = f" and {progress.num_steps} steps" if progress else ""
    where = f"after epoch {len(loop.history)}{within}"
    try:
        save_checkpoint(store, run.run_id, loop, progress)
    except StorageUnreachableError as error:
        # The next one will do: only a crash before it would cost these steps again.
        run.progress.put(f"no checkpoint {where}: {error}")
    else:
        if progress:
            run.progress.put(f"a node is to go: saved {where}")


def _save_result(run: TrainingRun, dataset: Dataset, loop: TrainingLoop) -> TrainResult:
    """Calibrate on validation, read the test images once, write the model directory."""
    calibration = fit_calibration(loop.compute_logits, dataset.validation, run.config.seed)
    test_digits = loop.compute_logits(dataset.test.images).argmax(1)
    last = loop.history[-1]
    result = TrainResult(
        model_uri=run.model_uri,
        dataset=dataset.name,
        recipe=run.config.recipe,
        num_workers=loop.world_size,
        num_epochs=run.recipe.num_epochs,
        num_parameters=count_parameters(loop.network),
        test_accuracy=float((test_digits == dataset.test.labels).mean()),
        validation_accuracy=last.validation_accuracy,
        validation_loss=last.validation_loss,
        min_risk=calibration.min_risk,
        images_per_s=last.images_per_s,
        train_s=sum(metrics.seconds for metrics in loop.history),
    )
    config = asdict(run.config)
    # where things lay is nobody's business; the recipe below holds what came of the overrides
    for name in ("model_uri", "data_root", "mlflow_uri", "override"):
        del config[name]
    metrics = asdict(result)
    del metrics["model_uri"]
    save_model(
        run.model_uri,
        loop.ema_network,
        architecture=run.recipe.architecture,
        mean=loop.mean,
        std=loop.std,
        calibration=calibration,
        metrics=metrics,
        training={**config, "recipe": {"name": run.config.recipe, **asdict(run.recipe)}},
        data=dataset.describe(),
    )
    return result
