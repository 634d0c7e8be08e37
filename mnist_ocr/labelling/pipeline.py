"""The labelling job on Ray Data: shard numbers in, one Parquet file and one receipt per shard out.

On a CPU cluster one actor per core does all of a shard, so that pixels never cross the object
store:

    ManifestSource -> ShardLabeller

On a GPU cluster CPU tasks read, actors that hold the GPUs predict, and CPU tasks write:

    ManifestSource -> read_shard_images -> DigitPredictor -> write_shard_predictions

Everywhere one row is one shard, and one block one row, so that nothing can split or merge shards;
its images are one binary value of 784 bytes each, and raw views travel only where they differ. Why
not Ray Data's own readers and writers: docs/design.md.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from mnist_ocr.digits.batch import ImageBatch
from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.digits.classifier import DigitClassifier, Predictions, find_differing
from mnist_ocr.digits.model import Model
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import Job
from mnist_ocr.labelling.manifest import iterate_shards, read_shard
from mnist_ocr.labelling.shards import Receipt, read_images, write_predictions
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import Store, open_store

TASKS_IN_FLIGHT = 2
"""Shards per actor, one at work and one waiting, so that no actor idles between two."""

MAX_RETRIES = 3
"""A lost node costs a retry; a shard that kills its worker four times ends the job (Ray Data's own
default repeats it for ever)."""


def label_shards(
    job: Job,
    model: Model,
    finished: frozenset[int],
    *,
    num_actors: int,
    num_gpus_per_actor: float,
) -> Iterator[Receipt]:
    """Label every shard that is not `finished`; yields receipts as shards are committed.

    Args:
        job: What to label, and where to.
        model: The workers get this copy; none of them reads the model directory.
        finished: Shard numbers to leave alone.
        num_actors: Of the pool that predicts.
        num_gpus_per_actor: 0 for the fused CPU pipeline.
    """
    with _settings_of_ray_data():
        receipts = _build_dataset(job, model, finished, num_actors, num_gpus_per_actor)
        for bundle in receipts.iter_internal_ref_bundles():
            for entry in bundle.blocks:
                for document in ray.get(entry.ref)["receipt"].to_pylist():
                    yield Receipt(**json.loads(document))


def _build_dataset(
    job: Job, model: Model, finished: frozenset[int], num_actors: int, num_gpus_per_actor: float
) -> Any:
    pool = ray.data.ActorPoolStrategy(
        # min_size is 1 since there may be fewer shards than actors, of which Ray Data would warn
        min_size=1,
        max_size=num_actors,
        initial_size=num_actors,
        max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
    )
    rows: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    tasks = {**rows, "fn_args": (job,), "max_retries": MAX_RETRIES}
    actors = {**rows, "compute": pool, "max_task_retries": MAX_RETRIES}
    shards = ray.data.read_datasource(
        ManifestSource(job, finished), override_num_blocks=1, num_cpus=0
    )
    if not num_gpus_per_actor:
        arguments = (job, model)
        return shards.map_batches(
            ShardLabeller, fn_constructor_args=arguments, num_cpus=1, **actors
        )
    images = shards.map_batches(read_shard_images, num_cpus=1, **tasks)
    predictions = images.map_batches(
        DigitPredictor, fn_constructor_args=(model,), num_gpus=num_gpus_per_actor, **actors
    )
    return predictions.map_batches(write_shard_predictions, num_cpus=0.5, **tasks)


@contextmanager
def _settings_of_ray_data() -> Iterator[None]:
    """What this pipeline needs, and quiet; the process's own settings come back afterwards."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # byte: each row leaves as a block of its own, at once
    context.raise_original_map_exception = True  # so that an error crosses with its type
    context.enable_progress_bars = False  # the command shows images, not blocks
    context.enable_operator_progress_bars = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs what it then raises
    try:
        with ray.data.DataContext.current(context), warnings.catch_warnings():
            # Ray 2.60 has no other way to bound retries than the one that it deprecates
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            yield
    finally:
        logger.setLevel(level)


class ManifestSource(Datasource):
    """Streams shard numbers while the listing, in the same task, still goes on."""

    def __init__(self, job: Job, finished: frozenset[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._job = job
        self._finished = finished

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: the listing has not begun."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """One task: a listing has one order."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_list_shards, self._job, self._finished), metadata)]


def _list_shards(job: Job, finished: frozenset[int]) -> Iterator[pa.Table]:
    """One-row tables. `finished` is fixed at the start, so that a retry yields the same ones."""
    source, output = open_source(job.input_uri, job.extensions), open_store(job.output_uri)
    for shard in iterate_shards(source, output, shard_size=job.shard_size):
        if shard not in finished:
            yield pa.table({"shard": [shard]})


class ShardLabeller:
    """All of a shard in one actor: read, predict, write."""

    def __init__(self, job: Job, model: Model) -> None:
        self._job = job
        self._classifier = DigitClassifier(model, num_threads=1)

    def __call__(self, row: pa.Table) -> pa.Table:
        """A shard number in, its receipt out."""
        shard = _value(row, "shard")
        source, output = _stores(self._job)
        manifest = read_shard(output, shard)
        batch, num_requests = read_images(source, manifest)
        predictions = self._classifier.predict_batch(batch)
        receipt = write_predictions(output, self._job, shard, manifest, predictions, num_requests)
        return _receipt_row(receipt)


def read_shard_images(row: pa.Table, job: Job) -> pa.Table:
    """A shard number in; its `ImageBatch` out, of the raw views those that differ."""
    shard = _value(row, "shard")
    source, output = _stores(job)
    batch, num_requests = read_images(source, read_shard(output, shard))
    differing = np.flatnonzero(find_differing(batch))
    arrays: dict[str, NDArray[Any]] = {
        "images": batch.images,
        "raw": batch.raw[differing],
        "differing": differing,
        "trust": batch.trust,
        "num_requests": np.array([num_requests]),
    }
    return _shard_row(shard, arrays, batch.status, batch.error)


class DigitPredictor:
    """A shard's `ImageBatch` in, its `probabilities` and `confidence` out."""

    def __init__(self, model: Model) -> None:
        self._classifier = DigitClassifier(model, runtime="torch")

    def __call__(self, row: pa.Table) -> pa.Table:
        """Predict a shard."""
        images, raw = (
            _array(row, name, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
            for name in ("images", "raw")
        )
        if len(raw):
            differing_raw, raw = raw, images.copy()
            raw[_array(row, "differing", np.int64)] = differing_raw
        else:
            raw = images
        trust = _array(row, "trust", np.float32)
        batch = ImageBatch(images, raw, trust, _value(row, "status"), _value(row, "error"))
        predictions = self._classifier.predict_batch(batch)
        arrays = {
            "probabilities": predictions.probabilities,
            "confidence": predictions.confidence,
            "num_requests": _array(row, "num_requests", np.int64),
        }
        status = predictions.status.tolist()
        return _shard_row(_value(row, "shard"), arrays, status, predictions.error)


def write_shard_predictions(row: pa.Table, job: Job) -> pa.Table:
    """A shard's predictions in; its Parquet file, and its receipt, out."""
    shard = _value(row, "shard")
    predictions = Predictions.build(
        _array(row, "probabilities", np.float32).reshape(-1, NUM_CLASSES),
        _array(row, "confidence", np.float32),
        _value(row, "status"),
        _value(row, "error"),
    )
    _, output = _stores(job)
    manifest = read_shard(output, shard)
    (num_requests,) = _array(row, "num_requests", np.int64).tolist()
    receipt = write_predictions(output, job, shard, manifest, predictions, num_requests)
    return _receipt_row(receipt)


@cache
def _open(input_uri: str, extensions: tuple[str, ...], output_uri: str) -> tuple[Source, Store]:
    """One connection per worker process; a process labels one shard at a time, on one core."""
    cv2.setNumThreads(1)
    return open_source(input_uri, extensions), open_store(output_uri)


def _stores(job: Job) -> tuple[Source, Store]:
    return _open(job.input_uri, job.extensions, job.output_uri)


def _shard_row(
    shard: int,
    arrays: Mapping[str, NDArray[Any]],
    status: list[str],
    error: list[str | None],
) -> pa.Table:
    return pa.table(
        {
            "shard": [shard],
            **{
                name: pa.array([array.tobytes()], pa.large_binary())
                for name, array in arrays.items()
            },
            "status": [status],
            "error": pa.array([error], pa.list_(pa.string())),
        }
    )


def _receipt_row(receipt: Receipt) -> pa.Table:
    # as JSON: the schema is the same whatever statuses occur
    return pa.table({"receipt": [json.dumps(vars(receipt))]})


def _value(row: pa.Table, name: str) -> Any:
    return row[name][0].as_py()


def _array(row: pa.Table, name: str, dtype: type) -> NDArray[Any]:
    """A binary value as a flat array, without a copy (so read-only)."""
    return np.frombuffer(row[name][0].as_buffer(), dtype)
