"""Training on a Ray cluster: `train` plans it on the driver, Ray Train runs the loop on workers.

The driver loads the dataset and hands it to the workers through Ray's object store, so that a
dataset that cannot be loaded is the driver's error, and no worker needs the files. Worker 0 fits
the temperature, reads the test images once, and writes the model directory.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue

from mnist_ocr.digits.calibration import fit_temperature
from mnist_ocr.digits.model import INFO, save_model
from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.session import connect_ray
from mnist_ocr.storage import is_local, open_store, resolve_uri
from mnist_ocr.training.config import TrainConfig
from mnist_ocr.training.datasets import Dataset, load_dataset
from mnist_ocr.training.loop import EpochMetrics, TrainingLoop

logger = logging.getLogger(__name__)

ray_v2: Any = ray
"""Ray as it is at run time: its type hints are those of Ray Train v1."""

MAX_CPUS_PER_WORKER = 8
"""More threads than this find too little to do in a batch of such small images."""

WORKER_ENVIRONMENT = {"GOMP_SPINCOUNT": "2000"}
"""Lets torch's waiting threads sleep soon instead of spinning on a core that others need. On two
cores with one other busy process: 2,400 images/s instead of under 400; alone, 7% slower."""


@dataclass(frozen=True)
class TrainResult:
    """What a training run reports; every value can be written as JSON."""

    model_uri: str
    """Where the model directory was written: an absolute path or a URI."""
    dataset: str
    recipe: str
    num_workers: int
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
    """Duration of the epochs, in seconds."""


def train(config: TrainConfig) -> TrainResult:
    """Train a model on Ray and write its directory.

    Joins the Ray cluster of this process, or that of RAY_ADDRESS, or starts one on this machine.

    Raises:
        UsageError: The config does not fit the dataset or the cluster, or training diverged.
        DatasetUnavailableError: The dataset cannot be downloaded.
        StorageUnreachableError: The model cannot be written for now.
    """
    model_uri = resolve_uri(config.model_uri or f"models/{config.dataset}-{config.recipe}")
    _check_destination(model_uri)
    dataset = load_dataset(config.dataset, config.data_root)
    batch_size, num_images = config.build_recipe().batch_size, len(dataset.train.labels)
    if batch_size > num_images:
        raise UsageError(
            f"A batch of {batch_size} images exceeds the {num_images} that {config.dataset} has "
            "to train on. Pass a smaller batch_size."
        )
    connect_ray()
    nodes = [node["Resources"] for node in ray_v2.nodes() if node["Alive"]]
    if is_local(model_uri) and len(nodes) > 1:
        raise UsageError(
            f"model_uri is {model_uri}, a folder of one machine, but the Ray cluster has "
            f"{len(nodes)} nodes. Pass an s3:// URI."
        )
    scaling_config = ray.train.ScalingConfig(
        num_workers=config.num_workers,
        use_gpu=config.use_gpu,
        resources_per_worker=plan_resources(config.num_workers, config.use_gpu, nodes),
    )
    logger.info("training %s on %d images of %s", config.recipe, num_images, config.dataset)
    outcome = _run_on_workers(config, ray.put(dataset), model_uri, scaling_config)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _check_destination(model_uri: str) -> None:
    """Find out before training, not after it, that the model cannot be written."""
    if not is_local(model_uri):
        with suppress(ObjectError):  # no model there yet
            open_store(model_uri).read(INFO)
        return
    folder = Path(model_uri)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise UsageError(
            f"model_uri is {model_uri}, but {existing} is not a folder that can be written to. "
            "Pass another one."
        )


def _run_on_workers(
    config: TrainConfig,
    dataset: "ray.ObjectRef[Dataset]",
    model_uri: str,
    scaling_config: ray.train.ScalingConfig,
) -> TrainResult | Exception:
    """Run Ray Train, logging each epoch as it ends; return what worker 0 returned."""
    # How often Ray Train takes a report, in seconds; an epoch waits until the last one was taken.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray Train wants a folder and, without checkpoints, leaves it empty.
    with tempfile.TemporaryDirectory() as run_folder, _log_progress() as progress:
        trainer = ray_v2.train.torch.TorchTrainer(
            # Not by train_loop_config: Ray Train copies that to where references are not kept.
            partial(_train_loop_per_worker, config, dataset, model_uri, progress),
            scaling_config=scaling_config,
            run_config=ray_v2.train.RunConfig(
                storage_path=run_folder,
                worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            ),
        )
        outcome: TrainResult | Exception = trainer.fit().return_value
    return outcome


@contextmanager
def _log_progress() -> Iterator[Queue]:
    """Log here, on the driver, the lines that a worker puts into the queue."""
    progress = Queue(actor_options={"num_cpus": 0})

    def listen() -> None:
        while (line := progress.get()) is not None:
            logger.info("%s", line)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield progress
    finally:
        progress.put(None)
        listener.join()


def plan_resources(
    num_workers: int, use_gpu: bool, nodes: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Decide what each worker reserves, so that together they use the cluster's cores.

    Args:
        num_workers: How many workers there will be.
        use_gpu: Whether each needs a GPU; then one core is enough to feed it.
        nodes: What each node of the cluster has: `CPU`, `GPU`, ...

    Returns:
        Ray resources of one worker.

    Raises:
        UsageError: The cluster cannot hold the workers; Ray would wait for room for ever.
    """
    most_cpus = 1 if use_gpu else MAX_CPUS_PER_WORKER
    for num_cpus in range(most_cpus, 0, -1):
        resources = {"CPU": float(num_cpus), **({"GPU": 1.0} if use_gpu else {})}
        room = (min(node.get(kind, 0) // resources[kind] for kind in resources) for node in nodes)
        if sum(room) >= num_workers:
            return resources
    kind = "GPU" if use_gpu else "CPU"
    total = sum(node.get(kind, 0) for node in nodes)
    raise UsageError(
        f"{num_workers} worker(s) need a {kind} each, and the Ray cluster has {total:g} in "
        f"{len(nodes)} node(s). Pass a smaller num_workers"
        + (" or leave out use_gpu," if use_gpu else ",")
        + f" or start nodes with {kind}s first."
    )


def _train_loop_per_worker(
    config: TrainConfig, dataset: "ray.ObjectRef[Dataset]", model_uri: str, progress: Queue
) -> TrainResult | Exception | None:
    """Train on one worker; worker 0 returns the result, or the error that a person can act on."""
    try:
        return _train_and_save(config, ray.get(dataset), model_uri, progress)
    except (UsageError, ConnectionError) as error:
        return error


def _train_and_save(
    config: TrainConfig, dataset: Dataset, model_uri: str, progress: Queue
) -> TrainResult | None:
    start = time.perf_counter()
    recipe = config.build_recipe()
    mean, std = dataset.pixel_statistics()
    torch.manual_seed(config.seed)
    loop = TrainingLoop(
        build_network(recipe.architecture),
        recipe,
        dataset.train,
        dataset.validation,
        mean=mean,
        std=std,
        seed=config.seed,
        device=ray.train.torch.get_device(),
    )
    for metrics in loop.run():
        ray.train.report(asdict(metrics))
        if loop.rank == 0:
            progress.put(_format_progress(metrics, recipe.num_epochs))
    if loop.rank != 0:
        return None
    train_s = time.perf_counter() - start
    validation_logits = loop.compute_logits(dataset.validation.images)
    temperature = fit_temperature(validation_logits, dataset.validation.labels)
    test_logits = loop.compute_logits(dataset.test.images)
    result = TrainResult(
        model_uri=model_uri,
        dataset=config.dataset,
        recipe=config.recipe,
        num_workers=config.num_workers,
        num_epochs=recipe.num_epochs,
        num_parameters=sum(p.numel() for p in loop.network.parameters()),
        test_accuracy=float((test_logits.argmax(1) == dataset.test.labels).mean()),
        validation_accuracy=metrics.validation_accuracy,
        validation_loss=metrics.validation_loss,
        temperature=temperature,
        images_per_s=metrics.images_per_s,
        train_s=train_s,
    )
    save_model(
        model_uri,
        loop.ema_network,
        architecture=recipe.architecture,
        mean=mean,
        std=std,
        temperature=temperature,
        metrics=asdict(result),
        training={**asdict(config), "recipe": {"name": config.recipe, **asdict(recipe)}},
        data=dataset.describe(),
    )
    return result


def _format_progress(metrics: EpochMetrics, num_epochs: int) -> str:
    return (
        f"epoch {metrics.epoch}/{num_epochs}: train loss {metrics.train_loss:.4f}, "
        f"validation loss {metrics.validation_loss:.4f}, "
        f"validation accuracy {metrics.validation_accuracy:.2%}, "
        f"{metrics.images_per_s:,.0f} images/s"
    )
