"""Shards through Ray Data: numbers in, one receipt per shard out. `label` and `pack` share it.

Everywhere one row is one shard, and one block one row, so that nothing can split or merge shards.
"""

import gc
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeVar

import cv2
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from mnist_ocr.ahead import run_ahead
from mnist_ocr.errors import JobFailedError, ObjectError, UsageError
from mnist_ocr.labelling.attempts import check_none_given_up, start_counter
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import ShardJob
from mnist_ocr.labelling.manifest import iterate_shards
from mnist_ocr.labelling.monitoring import Reporter, begin_logging
from mnist_ocr.labelling.sources import Source
from mnist_ocr.labelling.summary import Receipt
from mnist_ocr.log_lines import LogFormat, wanted_format
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.storage import Store, open_store

TASKS_IN_FLIGHT = 2
"""Shards per actor, one at work and one waiting, so that no actor idles between two."""

MAX_RETRIES = 20
"""Of a task, by Ray; its default is for ever. More than `MAX_ATTEMPTS` at a shard, since a worker's
death counts against the shards that waited for it, too."""

MAX_LISTING_RETRIES = 3
"""Of the one task that lists."""

ROWS: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
"""Of `map_batches`: a row at a time."""

R = TypeVar("R", bound=Receipt)


def run_shards(
    job: ShardJob,
    finished: frozenset[int],
    seconds: Counter[str],
    build: Callable[[Any, Reporter], Any],
    decode: Callable[[dict[str, Any]], R],
) -> Generator[R, None, None]:
    """Take every shard that is not `finished` through the stages that `build` adds.

    Args:
        job: What to read, and where to write.
        finished: Shard numbers to leave alone.
        seconds: Those that stages took, of listing on, are added to it.
        build: Dataset of rows `shard`, `seconds`, and whom to tell of shards -> dataset of rows
            made by `receipt_row`; none for a shard that was tried more than `MAX_ATTEMPTS` times.
        decode: Makes a receipt of the document in such a row.

    Yields:
        The receipts, as shards are committed.

    Raises:
        UsageError: the input or output cannot be used any more; the same command resumes.
        StorageUnreachableError: a store does not answer; the same command resumes.
        JobFailedError: a shard ends every worker, or too many workers were lost; at the end.
    """
    with _settings_of_ray_data(), _unwrapped_errors():
        counter = start_counter()
        reporter = Reporter(counter, job.job_id, wanted_format())
        source = ManifestSource(job, finished, reporter.log_format)
        shards = ray.data.read_datasource(
            source,
            override_num_blocks=1,
            num_cpus=0,
            ray_remote_args={"max_retries": MAX_LISTING_RETRIES},
        )
        receipts = build(shards, reporter)
        for bundle in receipts.iter_internal_ref_bundles():
            for entry in bundle.blocks:
                for row in ray.get(entry.ref).to_pylist():
                    seconds.update(json.loads(row["seconds"]))
                    yield decode(json.loads(row["receipt"]))
        check_none_given_up(counter)


def actors(num_actors: int) -> dict[str, Any]:
    """Of `map_batches`: a pool of actors that take a row at a time."""
    pool = ray.data.ActorPoolStrategy(
        # min_size is 1 since there may be fewer shards than actors, of which Ray Data would warn
        min_size=1,
        max_size=num_actors,
        initial_size=num_actors,
        max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
    )
    return {**ROWS, "compute": pool, "max_task_retries": MAX_RETRIES}


def receipt_row(receipt: Receipt, watch: Stopwatch) -> pa.Table:
    """A receipt as a row, and the seconds that its shard took."""
    # as JSON: the schema is the same whatever statuses occur
    return pa.table({"receipt": [json.dumps(receipt.encode())], "seconds": [take_seconds(watch)]})


def start_watch(row: pa.Table, watch: Stopwatch | None = None) -> Stopwatch:
    """One that goes on with the seconds that a row's shard has taken so far.

    Args:
        row: Of the shard.
        watch: An actor's own, whose seconds since its last shard are the stage `wait`.
    """
    if watch:
        watch.seconds.clear()  # of a shard that it gave up
        watch.lap("wait")
    else:
        watch = Stopwatch()
    watch.seconds.update(json.loads(value(row, "seconds")))
    return watch


def take_seconds(watch: Stopwatch) -> str:
    """The column `seconds` of a row; the watch begins anew."""
    seconds = json.dumps(watch.seconds)
    watch.seconds.clear()
    return seconds


def value(row: pa.Table, name: str) -> Any:
    """What a row holds in a column."""
    return row[name][0].as_py()


def stores_of(job: ShardJob) -> tuple[Source, Store]:
    """The job's input and output; one connection per worker process."""
    return _open(job.input_uri, job.extensions, job.anonymous, job.output_uri)


@cache
def _open(
    input_uri: str, extensions: tuple[str, ...], anonymous: bool, output_uri: str
) -> tuple[Source, Store]:
    """One connection per worker process; a process has one shard at a time, on one core."""
    cv2.setNumThreads(1)
    gc.freeze()  # a full collection of what Ray and pandas hold takes 0.13 s amid the first shards
    return open_source(input_uri, extensions, anonymous=anonymous), open_store(output_uri)


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


@contextmanager
def _unwrapped_errors() -> Iterator[None]:
    """A worker's error as itself, for the command to explain."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, (UsageError, ConnectionError, ObjectError, JobFailedError)):
            raise
        cause.args = (str(cause).partition("\n")[0],)  # Ray Data adds how to make it retry
        raise cause from None
    except ray.exceptions.RayError as error:
        reason = str(error).partition("\n")[0]
        raise JobFailedError(
            f"Ray has lost too many workers, or nodes ({reason}). What is done is kept, and the "
            "same command resumes."
        ) from error


class ManifestSource(Datasource):
    """Streams shard numbers while the listing, in the same task, still goes on."""

    def __init__(self, job: ShardJob, finished: frozenset[int], log_format: LogFormat) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._list = partial(_list_shards, job, finished, log_format)

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
        return [ReadTask(self._list, metadata)]


def _list_shards(
    job: ShardJob, finished: frozenset[int], log_format: LogFormat
) -> Iterator[pa.Table]:
    """One-row tables, made ahead: Ray Data takes a few a second only while its actors are busy."""
    begin_logging(job.job_id, log_format)
    return run_ahead(_make_rows(job, finished))


def _make_rows(job: ShardJob, finished: frozenset[int]) -> Generator[pa.Table, None, None]:
    """`finished` is fixed at the start, so that a retry yields the same ones."""
    source, output = stores_of(job)
    watch = Stopwatch()
    for shard in iterate_shards(source, output, shard_size=job.shard_size):
        watch.lap("list")
        if shard not in finished:
            yield pa.table({"shard": [shard], "seconds": [take_seconds(watch)]})
