"""`pack(config)`: many objects into few tar or Parquet files, from its checks to `_SUCCESS`."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray

from mnist_ocr.digits.batch import OK
from mnist_ocr.digits.model import package_versions
from mnist_ocr.labelling.attempts import MAX_ATTEMPTS
from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.config import PackConfig
from mnist_ocr.labelling.dataflow import (
    actors,
    receipt_row,
    run_shards,
    start_watch,
    stores_of,
    value,
)
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import find_job, write_job
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.manifest import ListingMonitor, check_finished, check_input
from mnist_ocr.labelling.monitoring import Reporter, monitored
from mnist_ocr.labelling.packing import (
    PackJob,
    PackReceipt,
    list_packed_shards,
    pack_shard,
    read_receipts,
    record_name,
)
from mnist_ocr.labelling.report import Progress, follow
from mnist_ocr.labelling.summary import JobSummary, add_up, read_summary, write_summary
from mnist_ocr.labelling.workers import plan_workers
from mnist_ocr.session import connect_ray
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.storage import Store, open_store

logger = logging.getLogger(__name__)

VERSIONED_PACKAGES = ("mnist-ocr", "opencv-python-headless", "pyarrow")
"""The packages on whose versions a file's bytes can depend."""


@dataclass(frozen=True, kw_only=True)
class PackSummary(JobSummary):
    """What a finished packing job did; `statuses` counts objects, those that are packed as `ok`."""

    num_files: int
    packed_bytes: int
    """Of the files."""

    @property
    def num_packed(self) -> int:
        """Images in the files."""
        return self.statuses.get(OK, 0)


def pack(
    config: PackConfig, on_progress: Callable[[Progress], None] = lambda progress: None
) -> PackSummary:
    """Copy every object of an input into shards, or what an earlier run of the job left over.

    Starts Ray on this machine unless there is a cluster to join (session.py).

    Raises:
        UsageError: the input or output cannot be used; mostly found before anything is written, and
            the same command resumes where not.
        StorageUnreachableError: a store does not answer; the same command resumes.
    """
    started = monotonic()
    source = open_source(config.input_uri, config.extensions, anonymous=config.anonymous)
    output = open_store(config.output_uri)
    wanted = PackJob(
        job_id=uuid4().hex,
        input_uri=source.uri,
        output_uri=output.uri,
        extensions=config.extensions,
        anonymous=config.anonymous,
        shard_size=config.shard_size,
        format=config.format,
        versions=package_versions(VERSIONED_PACKAGES),
    )
    job, is_new = find_job(wanted, source, output)
    if not is_new and (summary := read_summary(output, PackSummary)):
        logger.info("%s is complete: nothing left to do.", output.uri)
        return replace(summary, num_images_this_run=0, wall_s=monotonic() - started)
    check_input(source)  # when resuming, too: a disk may not be mounted
    with Lease(output) as lease:
        job, is_new = find_job(job, source, output)  # another command may have begun it meanwhile
        return _pack_rest(config, job, is_new, output, started, lease, on_progress)


def _pack_rest(
    config: PackConfig,
    job: PackJob,
    is_new: bool,
    output: Store,
    started: float,
    lease: Lease,
    on_progress: Callable[[Progress], None],
) -> PackSummary:
    """Pack the shards that are not finished, and declare the job complete."""
    finished = [] if is_new else list_packed_shards(output)
    check_finished(output, finished)
    connect_ray()
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_actors, _ = plan_workers(config.num_actors, 0.0, cluster)
    lease.check()
    if is_new:
        write_job(output, job)

    earlier = list(read_receipts(output, finished))
    seconds = Counter[str]()
    packing_started = monotonic()
    build = partial(_add_packer, job=job, num_actors=num_actors)
    packed = run_shards(job, frozenset(finished), seconds, build, PackReceipt.decode)
    listing = ListingMonitor(output, job.shard_size)
    with monitored(job.job_id, on_progress) as update:
        receipts = list(follow(packed, earlier, listing, lease.guard(update)))
    times = RunTimes(
        seconds=dict(seconds),
        wall_s=monotonic() - packing_started,
        num_cpus=num_actors,
        num_gpus=0,
        num_images=sum(receipt.num_images for receipt in receipts),
    )
    summary = PackSummary(
        **add_up(job, earlier, receipts, times, monotonic() - started, can_pack=False),
        num_files=sum(receipt.num_files for receipt in [*earlier, *receipts]),
        packed_bytes=sum(receipt.packed_bytes for receipt in [*earlier, *receipts]),
    )
    lease.check()
    write_summary(output, summary)
    return summary


def _add_packer(shards: Any, reporter: Reporter, job: PackJob, num_actors: int) -> Any:
    return shards.map_batches(
        ShardPacker, fn_constructor_args=(job, reporter), num_cpus=1, **actors(num_actors)
    )


class ShardPacker:
    """All of a shard in one actor: its bytes never cross the object store."""

    def __init__(self, job: PackJob, reporter: Reporter) -> None:
        self._job = job
        self._reporter = reporter
        reporter.open()
        self._watch = Stopwatch()

    def __call__(self, row: pa.Table) -> pa.Table:
        """A shard number in, its receipt out; nothing of one that has ended too many workers."""
        watch = start_watch(row, self._watch)
        shard = value(row, "shard")
        attempt = self._reporter.begin(shard)
        if attempt > MAX_ATTEMPTS:
            return row.slice(0, 0)
        source, output = stores_of(self._job)
        if attempt > 1 and output.find(record_name(shard)):  # its receipt was lost with a node
            return receipt_row(next(read_receipts(output, [shard])), watch)
        receipt = pack_shard(source, output, self._job, shard, watch)
        self._reporter.finish(receipt, watch.seconds)
        return receipt_row(receipt, watch)
