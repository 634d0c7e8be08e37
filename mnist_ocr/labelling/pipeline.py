"""The labelling job on Ray Data: shard numbers in, one Parquet file and one receipt per shard out.

On a CPU cluster one actor per core does all of a shard, so that pixels never cross the object
store:

    ManifestSource -> ShardLabeller

On a GPU cluster CPU tasks read, actors that hold the GPUs predict, and CPU tasks write:

    ManifestSource -> read_shard_images -> DigitPredictor -> write_shard_predictions

A shard is a row (dataflow.py); its images are one binary value of 784 bytes each, and raw views
travel only where they differ. Why not Ray Data's own readers and writers: docs/design.md.
"""

import json
from collections import Counter
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_ocr.digits.batch import ImageBatch
from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.digits.classifier import DigitClassifier, Predictions, find_differing
from mnist_ocr.digits.model import Model
from mnist_ocr.labelling.attempts import MAX_ATTEMPTS
from mnist_ocr.labelling.dataflow import (
    MAX_RETRIES,
    ROWS,
    actors,
    receipt_row,
    run_shards,
    start_watch,
    stores_of,
    take_seconds,
    value,
)
from mnist_ocr.labelling.job import Job
from mnist_ocr.labelling.kept_rows import find_unread, read_kept
from mnist_ocr.labelling.manifest_shard import read_shard
from mnist_ocr.labelling.monitoring import Reporter
from mnist_ocr.labelling.shards import Receipt, find_receipt, read_images, write_predictions
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.traffic import Traffic


def label_shards(
    job: Job,
    model: Model,
    finished: frozenset[int],
    seconds: Counter[str],
    *,
    num_actors: int,
    num_gpus_per_actor: float,
) -> Generator[Receipt, None, None]:
    """Label every shard that is not `finished`; yields receipts as shards are committed.

    Args:
        job: What to label, and where to.
        model: The workers get this copy; none of them reads the model directory.
        finished: Shard numbers to leave alone.
        seconds: Those of `list`, `wait` (of actors), `fetch`, `decode`, `canonicalise`, `predict`
            and `write`, summed over the workers, are added to it.
        num_actors: Of the pool that predicts.
        num_gpus_per_actor: 0 for the fused CPU pipeline.
    """
    build = partial(
        _add_stages,
        job=job,
        model=model,
        num_actors=num_actors,
        num_gpus_per_actor=num_gpus_per_actor,
    )
    return run_shards(job, finished, seconds, build, Receipt.decode)


def _add_stages(
    shards: Any,
    reporter: Reporter,
    job: Job,
    model: Model,
    num_actors: int,
    num_gpus_per_actor: float,
) -> Any:
    tasks = {**ROWS, "max_retries": MAX_RETRIES}
    pool = actors(num_actors)
    if not num_gpus_per_actor:
        return shards.map_batches(
            ShardLabeller, fn_constructor_args=(job, model, reporter), num_cpus=1, **pool
        )
    images = shards.map_batches(read_shard_images, fn_args=(job, reporter), num_cpus=1, **tasks)
    predictions = images.map_batches(
        DigitPredictor,
        fn_constructor_args=(model, reporter),
        num_cpus=0,  # Ray's default of 1 leaves none to read with where there are as many actors
        num_gpus=num_gpus_per_actor,
        **pool,
    )
    return predictions.map_batches(
        write_shard_predictions, fn_args=(job, reporter), num_cpus=0.5, **tasks
    )


class ShardLabeller:
    """All of a shard in one actor: read, predict, write."""

    def __init__(self, job: Job, model: Model, reporter: Reporter) -> None:
        self._job = job
        self._reporter = reporter
        reporter.open()
        self._classifier = DigitClassifier(model, num_threads=1)
        self._watch = Stopwatch()

    def __call__(self, row: pa.Table) -> pa.Table:
        """A shard number in, its receipt out; nothing of one that has ended too many workers."""
        watch = start_watch(row, self._watch)
        shard = value(row, "shard")
        attempt = self._reporter.begin(shard)
        if attempt > MAX_ATTEMPTS:
            return row.slice(0, 0)
        source, output = stores_of(self._job)
        if attempt > 1 and (receipt := find_receipt(output, self._job, shard)):
            return receipt_row(receipt, watch)
        manifest = read_shard(output, shard)
        kept = read_kept(self._job, shard, manifest)
        unread = find_unread(manifest, kept)
        batch, traffic = read_images(source, unread, watch, is_isolated=attempt > 1)
        predictions = self._classifier.predict_batch(batch)
        watch.lap("predict")
        receipt = write_predictions(output, self._job, shard, manifest, predictions, traffic, kept)
        watch.lap("write")
        self._reporter.finish(receipt, watch.seconds)
        return receipt_row(receipt, watch)


def read_shard_images(row: pa.Table, job: Job, reporter: Reporter) -> pa.Table:
    """A shard number in; its `ImageBatch` out, of the raw views those that differ.

    Nothing of a shard that has ended too many workers.
    """
    watch = start_watch(row)
    shard = value(row, "shard")
    attempt = reporter.begin(shard)
    if attempt > MAX_ATTEMPTS:
        return row.slice(0, 0)
    source, output = stores_of(job)
    manifest = read_shard(output, shard)
    kept = read_kept(job, shard, manifest)
    unread = find_unread(manifest, kept)
    batch, traffic = read_images(source, unread, watch, is_isolated=attempt > 1)
    differing = np.flatnonzero(find_differing(batch))
    arrays: dict[str, NDArray[Any]] = {
        "images": batch.images,
        "raw": batch.raw[differing],
        "differing": differing,
        "trust": batch.trust,
    }
    notes = {"traffic": json.dumps(traffic.encode()), "seconds": take_seconds(watch)}
    return _shard_row(shard, arrays, batch.status, batch.error, notes)


class DigitPredictor:
    """A shard's `ImageBatch` in, its `probabilities` and `confidence` out."""

    def __init__(self, model: Model, reporter: Reporter) -> None:
        self._reporter = reporter
        reporter.open()
        self._classifier = DigitClassifier(model, runtime="torch")
        self._watch = Stopwatch()

    def __call__(self, row: pa.Table) -> pa.Table:
        """Predict a shard."""
        watch = start_watch(row, self._watch)
        if self._reporter.begin(value(row, "shard"), "predict") > MAX_ATTEMPTS:
            return row.slice(0, 0)
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
        batch = ImageBatch(images, raw, trust, value(row, "status"), value(row, "error"))
        predictions = self._classifier.predict_batch(batch)
        arrays = {
            "probabilities": predictions.probabilities,
            "confidence": predictions.confidence,
        }
        status = predictions.status.tolist()
        watch.lap("predict")
        notes = {"traffic": value(row, "traffic"), "seconds": take_seconds(watch)}
        return _shard_row(value(row, "shard"), arrays, status, predictions.error, notes)


def write_shard_predictions(row: pa.Table, job: Job, reporter: Reporter) -> pa.Table:
    """A shard's predictions in; its Parquet file, and its receipt, out."""
    watch = start_watch(row)
    shard = value(row, "shard")
    attempt = reporter.begin(shard, "write")
    if attempt > MAX_ATTEMPTS:
        return row.slice(0, 0)
    _, output = stores_of(job)
    if attempt > 1 and (receipt := find_receipt(output, job, shard)):
        return receipt_row(receipt, watch)
    predictions = Predictions.build(
        _array(row, "probabilities", np.float32).reshape(-1, NUM_CLASSES),
        _array(row, "confidence", np.float32),
        value(row, "status"),
        value(row, "error"),
    )
    manifest = read_shard(output, shard)
    traffic = Traffic.decode(json.loads(value(row, "traffic")))
    kept = read_kept(job, shard, manifest)  # again: rows of a base may outweigh the images
    receipt = write_predictions(output, job, shard, manifest, predictions, traffic, kept)
    watch.lap("write")
    reporter.finish(receipt, watch.seconds)
    return receipt_row(receipt, watch)


def _shard_row(
    shard: int,
    arrays: Mapping[str, NDArray[Any]],
    status: list[str],
    error: list[str | None],
    notes: Mapping[str, str],
) -> pa.Table:
    return pa.table(
        {
            "shard": [shard],
            **{name: [note] for name, note in notes.items()},
            **{
                name: pa.array([array.tobytes()], pa.large_binary())
                for name, array in arrays.items()
            },
            "status": [status],
            "error": pa.array([error], pa.list_(pa.string())),
        }
    )


def _array(row: pa.Table, name: str, dtype: type) -> NDArray[Any]:
    """A binary value as a flat array, without a copy (so read-only)."""
    return np.frombuffer(row[name][0].as_buffer(), dtype)
