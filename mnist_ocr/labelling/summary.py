"""`OUTPUT/_SUCCESS`: what a finished job did."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any, Protocol, TypeVar

from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.documents import read_document
from mnist_ocr.labelling.job import ShardJob
from mnist_ocr.labelling.manifest import read_totals
from mnist_ocr.labelling.shards import count_errors
from mnist_ocr.storage import Store
from mnist_ocr.traffic import Traffic

SUCCESS = "_SUCCESS"


class Receipt(Protocol):
    """What became of a shard, whatever was done to it."""

    @property
    def num_images(self) -> int:
        """Objects in the shard."""

    @property
    def num_read(self) -> int:
        """Those that were read for it."""

    @property
    def statuses(self) -> dict[str, int]:
        """Objects by status."""

    @property
    def num_errors(self) -> int:
        """Objects that could not be used."""

    @property
    def traffic(self) -> Traffic:
        """What reading them took."""

    def encode(self) -> dict[str, Any]:
        """For JSON."""


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What a finished job did."""

    output_uri: str
    job_id: str
    job_sha256: str
    """Of what `_job.json` says, apart from `output_uri`."""
    versions: dict[str, str]
    num_images: int
    num_shards: int
    statuses: dict[str, int]
    """Rows by status."""
    requests_per_image: float
    """Of reading the images that were read, listing apart, over all runs of the job, as are the
    next four."""
    num_throttled: int
    """Requests that the store answered with 503, and that were repeated."""
    num_bytes: int
    """Read."""
    latency_p50_s: float | None
    latency_p99_s: float | None
    """Seconds that half, and 99%, of a store's answers took at most; None for a local disk."""
    num_images_this_run: int
    images_per_s: float
    """Of this run, from the start of the pipeline, the start of its workers included."""
    wall_s: float
    """Seconds of this run, from the first check on."""
    times: RunTimes
    """Where the seconds of this run went."""
    limit: str
    """What limited this run, and what would move it."""

    def format_run(self) -> str:
        """Requests, times and the limit, for a person."""
        reading = (
            f"listing apart, {self.requests_per_image:.4f} requests an image, "
            f"{self.num_bytes / 1e6:,.1f} MB"
        )
        if self.latency_p50_s and self.latency_p99_s:
            reading += (
                f"; half answered within {self.latency_p50_s * 1e3:.2g} ms, 99% within "
                f"{self.latency_p99_s * 1e3:.2g} ms, {self.num_throttled:,} refused (503)"
            )
        return f"{reading}\n{self.times.format()}\nlimit: {self.limit}"


@dataclass(frozen=True, kw_only=True)
class LabelSummary(JobSummary):
    """What a finished labelling job did."""

    model_sha256: str
    num_accepted: int

    def rest(self, output: Store, started: float) -> "LabelSummary":
        """What a run says that found the job finished, and began at `started` by `monotonic`.

        Args:
            output: Where the job is now: it may have been moved.
            started: When.
        """
        wall_s = monotonic() - started
        return replace(self, output_uri=output.uri, num_images_this_run=0, wall_s=wall_s)

    @property
    def error_rate(self) -> float:
        """Share of the rows whose status is neither ok, blank nor not_a_digit."""
        return count_errors(self.statuses) / self.num_images


S = TypeVar("S", bound=JobSummary)


def add_up(
    job: ShardJob,
    earlier: Sequence[Receipt],
    receipts: Sequence[Receipt],
    times: RunTimes,
    wall_s: float,
    *,
    can_pack: bool = True,
) -> dict[str, Any]:
    """The fields of a `JobSummary`.

    Args:
        job: What was done.
        earlier: Of the shards that earlier runs finished.
        receipts: Of this run's shards.
        times: Of this run.
        wall_s: Of this run, with what came before and after the pipeline.
        can_pack: Whether a person may be told to read from archives instead.
    """
    limit = times.find_limit(_add_traffic(receipts), can_pack=can_pack)
    receipts = [*earlier, *receipts]
    traffic = _add_traffic(receipts)
    num_images = sum(receipt.num_images for receipt in receipts)
    num_read = sum(receipt.num_read for receipt in receipts)
    return {
        "output_uri": job.output_uri,
        "job_id": job.job_id,
        "job_sha256": job.job_sha256,
        "versions": job.versions,
        "num_images": num_images,
        "num_shards": len(receipts),
        "statuses": dict(sum((Counter(r.statuses) for r in receipts), Counter())),
        "requests_per_image": traffic.num_requests / max(num_read, 1),
        "num_throttled": traffic.num_throttled,
        "num_bytes": traffic.num_bytes,
        "latency_p50_s": traffic.latency_s(0.5),
        "latency_p99_s": traffic.latency_s(0.99),
        "num_images_this_run": times.num_images,
        "images_per_s": times.num_images / times.wall_s,
        "wall_s": wall_s,
        "times": times,
        "limit": limit,
    }


def _add_traffic(receipts: Iterable[Receipt]) -> Traffic:
    traffic = Traffic()
    for receipt in receipts:
        traffic.add(receipt.traffic)
    return traffic


def read_summary(output: Store, kind: type[S]) -> S | None:
    """The content of `_SUCCESS`, or None while the job is unfinished.

    Raises:
        DamagedOutputError: it is damaged.
    """
    return read_document(
        output,
        SUCCESS,
        lambda fields: kind(**{**fields, "times": RunTimes(**fields["times"])}),
        "Delete it and run the same command again.",
    )


def write_summary(output: Store, summary: JobSummary) -> None:
    """Declare the job complete, if it is."""
    totals = read_totals(output) or {}
    found = {"num_shards": summary.num_shards, "num_images": summary.num_images}
    if totals != found:
        raise RuntimeError(
            f"The manifest of {output.uri} counts {totals}, the finished shards {found}. "
            "Run the same command again; if it stays so, this is a bug."
        )
    output.write(SUCCESS, json.dumps(asdict(summary), indent=2).encode())
