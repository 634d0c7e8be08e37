"""Training on a Ray cluster: `train` plans it on the driver, Ray Train runs it on workers.

The driver loads the dataset and hands it to the workers through Ray's object store, so that a
dataset that cannot be loaded is the driver's error, and no worker needs the files.
"""

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from mnist_ocr.digits.model import INFO, Model, load_model, package_versions
from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import JobFailedError, UsageError
from mnist_ocr.session import connect_ray
from mnist_ocr.storage import is_local, open_store, resolve_uri
from mnist_ocr.training.checkpoints import CHECKPOINT
from mnist_ocr.training.config import DatasetConfig, TrainConfig
from mnist_ocr.training.datasets import Dataset, check_trainable, load_dataset, mix_datasets
from mnist_ocr.training.progress import follow_progress
from mnist_ocr.training.recipes import Recipe
from mnist_ocr.training.resources import list_resources, plan_resources
from mnist_ocr.training.tracking import RunTracker
from mnist_ocr.training.worker import TrainingRun, TrainResult, train_loop_per_worker

logger = logging.getLogger(__name__)

ray_v2: Any = ray
"""Ray as it is at run time: its type hints are those of Ray Train v1."""

MAX_FAILURES = 10
"""Deaths of workers, other than by an announced preemption, before the run is given up."""

MAX_WAITS = 40
"""Times, of 15 s and more each, to wait for room before the run is given up: about ten minutes for
the replacement of a lost node."""

RESIZE_INTERVAL_S = 30.0
"""How often an elastic run looks whether the cluster has grown or shrunk."""

WORKER_ENVIRONMENT = {"GOMP_SPINCOUNT": "2000"}
"""Lets torch's waiting threads sleep soon instead of spinning on a core that others need. On two
cores with one other busy process: 2,400 images/s instead of under 400; alone, 7% slower."""

RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a dead worker is noticed, the end too
    # Ray plans with nodes that it does not know to be lost yet; after this it plans again.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # a notice is short
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a hung one; Ray would wait ten minutes
}


def train(config: TrainConfig) -> TrainResult:
    """Train a model on Ray and write its directory.

    Joins the Ray cluster of this process, or that of RAY_ADDRESS, or starts one on this machine.
    A run that was interrupted is continued where it was last saved.

    Raises:
        UsageError: The config does not fit the dataset or the cluster, or training diverged.
        DatasetUnavailableError: The dataset cannot be downloaded.
        StorageUnreachableError: The model cannot be written for now.
        JobFailedError: Workers died, or had no room, too often.
    """
    model_uri = resolve_uri(config.model_uri or f"models/{config.dataset_name}-{config.recipe}")
    _check_destination(model_uri)
    initial = load_model(config.init_from) if config.init_from else None
    teachers = [load_model(uri) for uri in config.teachers]
    recipe = _fit_architecture(config, initial)
    dataset = _load_training_data(config)
    check_trainable(dataset)
    if recipe.batch_size > len(dataset.train.labels):
        raise UsageError(
            f"A batch of {recipe.batch_size} images exceeds the {len(dataset.train.labels)} that "
            f"{dataset.name} has to train on. Pass a smaller batch_size."
        )
    connect_ray()
    nodes = list_resources("model_uri", model_uri)
    low, high = config.worker_range
    scaling_config = ray_v2.train.ScalingConfig(
        num_workers=high if low == high else (low, high),
        use_gpu=config.use_gpu,
        resources_per_worker=plan_resources(low, high, config.use_gpu, nodes),
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )
    logger.info(
        "training %s on %d images of %s", config.recipe, len(dataset.train.labels), dataset.name
    )
    run_id = _identify_run(config, recipe, dataset, initial, teachers)
    parameters = {"dataset": dataset.name, "seed": config.seed, **asdict(recipe)}
    store = open_store(model_uri)
    with RunTracker(store, parameters, config.mlflow_uri) as tracker:
        with follow_progress(tracker, recipe.num_epochs) as progress:
            inputs = ray.put((dataset, initial, teachers))
            run = TrainingRun(run_id, config, recipe, model_uri, inputs, progress)
            result = _run_on_workers(run, scaling_config)
        tracker.finish(asdict(result))
    store.delete(CHECKPOINT)
    return result


def _check_destination(model_uri: str) -> None:
    """Find out before training, not after it, that the model cannot be written."""
    if not is_local(model_uri):
        next(open_store(model_uri).list(INFO), None)
        return
    folder = Path(model_uri)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise UsageError(
            f"model_uri is {model_uri}, but {existing} is not a folder that can be written to. "
            "Pass another one."
        )


def _fit_architecture(config: TrainConfig, initial: Model | None) -> Recipe:
    """The recipe, with the network of the model that training starts from."""
    recipe = config.build_recipe()
    if initial is None:
        build_network(recipe.architecture)  # an unknown name is refused before anything starts
        return recipe
    architecture = initial.info.architecture
    if config.override.architecture not in (None, architecture):
        raise UsageError(
            f"architecture is {config.override.architecture}, but {config.init_from} is a "
            f"{architecture}. Leave architecture out, or init_from."
        )
    if config.override.normalization is not None:
        raise UsageError(
            f"normalization is {config.override.normalization}, but {config.init_from} brings its "
            "own. Leave normalization out, or init_from."
        )
    return replace(recipe, architecture=architecture)


def _load_training_data(config: TrainConfig) -> Dataset:
    dataset = load_dataset(config)
    if not config.mnist_weight:
        return dataset
    mnist = load_dataset(DatasetConfig(dataset="mnist", data_root=config.data_root))
    return mix_datasets(dataset, mnist, config.mnist_weight)


def _identify_run(
    config: TrainConfig,
    recipe: Recipe,
    dataset: Dataset,
    initial: Model | None,
    teachers: list[Model],
) -> str:
    """All that the result depends on, as a sha256; not how many workers share the work."""
    parts = [
        asdict(recipe),
        config.seed,
        dataset.describe(),
        initial and initial.sha256,
        [teacher.sha256 for teacher in teachers],
        package_versions(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _run_on_workers(run: TrainingRun, scaling_config: ray.train.ScalingConfig) -> TrainResult:
    """Run Ray Train, and raise what a worker returned as an error."""
    for name, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    # Ray Train wants a folder and, without checkpoints of its own, leaves it empty.
    with tempfile.TemporaryDirectory() as run_folder:
        trainer = ray_v2.train.torch.TorchTrainer(
            # Not by train_loop_config: Ray Train copies that to where references are not kept.
            partial(train_loop_per_worker, run),
            scaling_config=scaling_config,
            run_config=ray_v2.train.RunConfig(
                storage_path=run_folder,
                worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
                failure_config=ray_v2.train.FailureConfig(
                    max_failures=MAX_FAILURES, controller_failure_limit=MAX_WAITS
                ),
            ),
        )
        try:
            outcome: TrainResult | Exception = trainer.fit().return_value
        except SystemExit as error:  # Ray Train's answer to Ctrl-C
            raise KeyboardInterrupt from error
        except ray_v2.train.TrainingFailedError as error:
            raise JobFailedError(
                f"Ray Train gave up: {_first_reason(error)}. The same command goes on where the "
                "run was last saved."
            ) from error
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _first_reason(error: Exception) -> str:
    failures = getattr(error, "worker_failures", None)
    cause = next(iter(failures.values())) if failures else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[-1].strip().removesuffix(".")
