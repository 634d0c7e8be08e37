"""What Prometheus and the logs are told of a job: a few numbers a shard, nothing an image.

Ray scrapes its workers every ten seconds, and writes `ray_` before each name and `_total` behind
that of a counter. What a worker counted in its last seconds can be lost with it: these numbers are
to watch a job by; what it did stands in `_SUCCESS`. Dashboard, alerts and what to ask of them:
cluster/observability/README.md.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Event, Thread
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from mnist_ocr.labelling.attempts import MAX_ATTEMPTS, count_attempt
from mnist_ocr.labelling.report import Progress
from mnist_ocr.labelling.summary import Receipt
from mnist_ocr.log_lines import LogFormat, bind, configure_logging

logger = logging.getLogger(__name__)

REPEAT_S = 5.0
"""Seconds between two times that a gauge is set: Ray 2.60 drops one that is left alone for 20."""

PREFIX = "mnist_ocr_"

NOT_WORK = {"list", "wait"}
"""Of a shard's seconds: what passed before a worker had it."""

SHARD_SECONDS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
"""Upper bounds of the histogram's buckets. Its `_sum` is of their middles: Ray keeps no more."""


@dataclass(frozen=True)
class Reporter:
    """How workers say what they do with shards; made by the driver."""

    counter: Any
    """Of attempts (attempts.py)."""
    job_id: str
    log_format: LogFormat

    def open(self) -> "ShardMonitor":
        """That of this process, the same each time."""
        return _open(self.job_id, self.log_format)

    def begin(self, shard: int, stage: str = "read") -> int:
        """A stage begins a shard; returns which attempt at it that is, from 1."""
        attempt = count_attempt(self.counter, shard, stage)
        self.open().begin(shard, attempt)
        return attempt

    def finish(self, receipt: Receipt, seconds: Mapping[str, float]) -> None:
        """The shard that was begun last is committed, after so many seconds of each stage."""
        self.open().finish(receipt, seconds)


@cache
def _open(job_id: str, log_format: LogFormat) -> "ShardMonitor":
    begin_logging(job_id, log_format)
    return ShardMonitor(job_id)


def begin_logging(job_id: str, log_format: LogFormat) -> None:
    """Have a worker's log lines hold no secrets, and JSON say where it works and at what."""
    context = ray.get_runtime_context()
    bind(
        job_id=job_id,
        ray_job_id=context.get_job_id(),
        node=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
        node_id=context.get_node_id(),
        worker_id=context.get_worker_id(),
    )
    configure_logging(log_format)
    if log_format == "text":  # which would not say what shard is done
        logging.getLogger("mnist_ocr").setLevel(logging.WARNING)


class ShardMonitor:
    """Of one worker process, which has one shard at a time."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id

        def tally(name: str, description: str, tag: str | None = None) -> _Tally:
            return _Tally(job_id, name, description, tag)

        self._images = tally("images", "Images read, of shards that are done.")
        self._rows = tally("rows", "Rows written, by status.", "status")
        self._shards = tally("shards", "Shards done.")
        self._repeated = tally(
            "repeated_shards", "Stages of shards begun again: a worker was lost."
        )
        self._failed = tally("failed_shards", "Shards given up after too many attempts.")
        self._requests = tally(
            "requests", "Requests to the store, or files opened, to read images."
        )
        self._unanswered = tally(
            "failed_requests", "Of them, those repeated for want of an answer."
        )
        self._throttled = tally("throttled_requests", "Of those, the ones answered 503 or 429.")
        self._bytes = tally("read_bytes", "Bytes of images read.")
        self._seconds = tally("stage_seconds", "Seconds of workers, by stage.", "stage")
        self._duration = Histogram(
            f"{PREFIX}shard_seconds",
            "Seconds that a worker, or several in turn, took for a shard.",
            boundaries=SHARD_SECONDS,
            tag_keys=("job_id",),
        ).set_default_tags({"job_id": job_id})

    def begin(self, shard: int, attempt: int) -> None:
        """A stage begins a shard; log lines name it from here on.

        Args:
            shard: Its number.
            attempt: Of this stage at this shard, from 1.
        """
        bind(job_id=self._job_id, shard=shard, attempt=attempt)
        if attempt > MAX_ATTEMPTS:
            self._failed.add(1)
            logger.error("shard given up")
        elif attempt > 1:
            self._repeated.add(1)
            logger.warning("shard begun again")

    def finish(self, receipt: Receipt, seconds: Mapping[str, float]) -> None:
        """The shard is committed.

        Args:
            receipt: What became of it.
            seconds: By stage.
        """
        traffic = receipt.traffic
        self._shards.add(1)
        self._images.add(receipt.num_read)
        for status, count in receipt.statuses.items():
            self._rows.add(count, status)
        self._requests.add(traffic.num_requests)
        self._unanswered.add(traffic.num_failed)
        self._throttled.add(traffic.num_throttled)
        self._bytes.add(traffic.num_bytes)
        for stage, stage_s in seconds.items():
            self._seconds.add(stage_s, stage)
        work_s = sum(stage_s for stage, stage_s in seconds.items() if stage not in NOT_WORK)
        self._duration.observe(work_s)
        fields = {
            "num_images": receipt.num_images,
            "statuses": receipt.statuses,
            "work_s": round(work_s, 3),
            "seconds": {stage: round(stage_s, 3) for stage, stage_s in seconds.items()},
            "num_requests": traffic.num_requests,
            "num_failed_requests": traffic.num_failed,
            "num_throttled_requests": traffic.num_throttled,
            "num_bytes": traffic.num_bytes,
            "latency_p50_s": traffic.latency_s(0.5),
            "latency_p99_s": traffic.latency_s(0.99),
        }
        logger.info("shard done", extra={"fields": fields})
        bind(shard=None, attempt=None)


@contextmanager
def monitored(
    job_id: str, on_progress: Callable[[Progress], None]
) -> Iterator[Callable[[Progress], None]]:
    """Let Prometheus know how far a job is while the block runs; of its driver.

    Args:
        job_id: Of the job.
        on_progress: Is told, too, by what this yields.
    """
    latest, end = Progress(), Event()

    def gauge(name: str, description: str) -> Gauge:
        made = Gauge(f"{PREFIX}{name}", description, tag_keys=("job_id",))
        made.set_default_tags({"job_id": job_id})
        return made

    def update(progress: Progress) -> None:
        nonlocal latest
        latest = progress
        on_progress(progress)

    def repeat() -> None:
        has_ended = False
        while True:
            listed.set(latest.num_listed)
            done.set(latest.num_done)
            waiting.set(latest.num_waiting_shards)
            if has_ended:
                return
            has_ended = end.wait(REPEAT_S)  # and set once more, to what the job came to

    bind(job_id=job_id)
    listed = gauge("listed_images", "Objects listed so far, in all runs of the job.")
    done = gauge("done_images", "Rows committed so far, in all runs of the job.")
    waiting = gauge("waiting_shards", "Shards listed and not done, at work or in a queue.")
    thread = Thread(target=repeat, name="monitor", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        end.set()
        thread.join()


class _Tally:
    """A counter of Ray's that is there before it counts, and may be given nothing to add.

    Prometheus's `increase` does not see what a counter starts with.
    """

    def __init__(self, job_id: str, name: str, description: str, tag: str | None) -> None:
        self._tag = tag
        tag_keys = ("job_id", tag) if tag else ("job_id",)
        self._counter = Counter(PREFIX + name, description, tag_keys)
        self._counter.set_default_tags({"job_id": job_id})
        if not tag:
            self._counter.inc(sys.float_info.min)  # Ray refuses 0

    def add(self, value: float, tag_value: str = "") -> None:
        if value > 0:
            self._counter.inc(value, {self._tag: tag_value} if self._tag else {})
