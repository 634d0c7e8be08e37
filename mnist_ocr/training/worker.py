"""What runs on each worker of Ray Train: the loop, a checkpoint per epoch, the model at the end.

All workers hold the same weights. Worker 0 alone writes: it saves the state after each epoch, fits
the temperature after the last, reads the test images once, and writes the model directory.
"""

from dataclasses import asdict, dataclass

import ray
import ray.train.torch
from ray.util.queue import Queue

from mnist_ocr.digits.calibration import fit_temperature
from mnist_ocr.digits.model import Model, save_model
from mnist_ocr.digits.networks import count_parameters
from mnist_ocr.errors import StorageUnreachableError, UsageError
from mnist_ocr.storage import Store, open_store
from mnist_ocr.training.checkpoints import restore_checkpoint, save_checkpoint
from mnist_ocr.training.config import TrainConfig
from mnist_ocr.training.datasets import Dataset
from mnist_ocr.training.loop import TrainingLoop, build_loop
from mnist_ocr.training.recipes import Recipe


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
    """Mean cross-entropy in nats, before the temperature."""
    temperature: float
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
    inputs: "ray.ObjectRef[tuple[Dataset, Model | None]]"
    """The dataset and the model to start from."""
    progress: Queue
    """Takes the history after each epoch, and lines for a person."""


def train_loop_per_worker(run: TrainingRun) -> TrainResult | Exception | None:
    """Train on one worker; worker 0 returns the result.

    An error that a person can act on is returned, too: what is raised makes Ray try again.
    """
    try:
        return _train(run)
    except (UsageError, ConnectionError) as error:
        return error


def _train(run: TrainingRun) -> TrainResult | None:
    dataset, initial = ray.get(run.inputs)
    store = open_store(run.model_uri)
    loop = build_loop(
        run.recipe,
        dataset,
        seed=run.config.seed,
        device=ray.train.torch.get_device(),
        initial=initial,
    )
    note = restore_checkpoint(store, run.run_id, loop)
    is_first = loop.rank == 0
    if is_first and note:
        run.progress.put(note)
    if is_first and loop.history:
        run.progress.put(list(loop.history))
    for _ in loop.run():
        if is_first:
            _save_progress(run, store, loop)
    return _save_result(run, dataset, loop) if is_first else None


def _save_progress(run: TrainingRun, store: Store, loop: TrainingLoop) -> None:
    try:
        save_checkpoint(store, run.run_id, loop)
    except StorageUnreachableError as error:
        # The next epoch's will do: only a crash before it would cost this epoch again.
        run.progress.put(f"no checkpoint of epoch {len(loop.history)}: {error}")
    run.progress.put(list(loop.history))


def _save_result(run: TrainingRun, dataset: Dataset, loop: TrainingLoop) -> TrainResult:
    """Calibrate on validation, read the test images once, write the model directory."""
    logits = loop.compute_logits(dataset.validation.images)
    temperature = fit_temperature(logits, dataset.validation.labels)
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
        temperature=temperature,
        images_per_s=last.images_per_s,
        train_s=sum(metrics.seconds for metrics in loop.history),
    )
    config = asdict(run.config)
    del config["override"]  # the recipe below holds what came of it
    save_model(
        run.model_uri,
        loop.ema_network,
        architecture=run.recipe.architecture,
        mean=loop.mean,
        std=loop.std,
        temperature=temperature,
        metrics=asdict(result),
        training={**config, "recipe": {"name": run.config.recipe, **asdict(run.recipe)}},
        data=dataset.describe(),
    )
    return result
