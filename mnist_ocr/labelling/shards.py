"""One shard in, one file out: `read_images` -> `predict` -> `write_predictions`, and the receipt.

The same three steps run fused in one actor on a CPU cluster and apart on a GPU cluster
(pipeline.py). None of them knows about Ray.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mnist_ocr.crash import crash_point
from mnist_ocr.digits.batch import BLANK, OK, ImageBatch, prepare_images
from mnist_ocr.digits.classifier import NOT_A_DIGIT, Predictions
from mnist_ocr.digits.isolation import prepare_isolated
from mnist_ocr.errors import DamagedOutputError, ObjectError, UsageError
from mnist_ocr.labelling import kept_rows
from mnist_ocr.labelling.job import Job
from mnist_ocr.labelling.manifest import part_name
from mnist_ocr.labelling.manifest_shard import ManifestShard
from mnist_ocr.labelling.predictions import build_table, encode_table, read_metadata
from mnist_ocr.labelling.shard_check import identify
from mnist_ocr.labelling.sources import Source
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.storage import ByteRange, ObjectInfo, Store
from mnist_ocr.traffic import Traffic

logger = logging.getLogger(__name__)

MAX_FOOTER_BYTES = 64 * 1024
"""At the end of a Parquet file, which hold all of its metadata: 4 KB, and a receipt."""


@dataclass(frozen=True)
class Receipt:
    """What became of a shard."""

    shard: int
    num_images: int
    num_accepted: int
    statuses: dict[str, int]
    """Rows by status."""
    traffic: Traffic
    """What reading the images took; the neighbours in an archive share requests."""
    num_kept: int = 0
    """Rows taken over from the base, of which no image was read."""

    def encode(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"traffic": self.traffic.encode()}

    @classmethod
    def decode(cls, document: Mapping[str, Any]) -> "Receipt":
        """The other way round."""
        return cls(**{**document, "traffic": Traffic.decode(document["traffic"])})

    @property
    def num_read(self) -> int:
        """Images read and labelled."""
        return self.num_images - self.num_kept

    @property
    def num_errors(self) -> int:
        """Rows whose status is neither ok, blank nor not_a_digit."""
        return count_errors(self.statuses)


def count_errors(statuses: Mapping[str, int]) -> int:
    """Rows whose status is neither ok, blank nor not_a_digit."""
    return sum(
        count for status, count in statuses.items() if status not in {OK, BLANK, NOT_A_DIGIT}
    )


def read_images(
    source: Source,
    manifest: ManifestShard,
    watch: Stopwatch | None = None,
    *,
    is_isolated: bool = False,
) -> tuple[ImageBatch, Traffic]:
    """Fetch, decode and canonicalise a shard's objects; returns what reading took, too.

    Args:
        source: Where they are.
        manifest: Which they are.
        watch: Times `fetch`, `decode` and `canonicalise`.
        is_isolated: Decode in a child process, since one of them has ended this one's predecessor.
            What raises an error here is decoded so without being told.

    Raises:
        UsageError: the whole input is gone, or this machine does not have it.
        JobFailedError: something ends the child processes, whatever the image.
    """
    source.check_is_here()
    source.take_traffic()  # of a shard that failed half-way
    objects = manifest.objects(source)
    batch = None if is_isolated else _prepare_here(source, objects, watch)
    if batch is None:
        batch = prepare_isolated(source.read_many(objects), len(objects), watch)
    crash_point("shard-read")
    return batch, source.take_traffic()


def _prepare_here(
    source: Source, objects: Sequence[ObjectInfo], watch: Stopwatch | None
) -> ImageBatch | None:
    """In this process, which it may end; None where an image takes too much, or hits a bug."""
    try:
        return prepare_images(source.read_many(objects), len(objects), watch, is_guarded=True)
    except (UsageError, ConnectionError, ObjectError):  # of the store
        raise
    except Exception:
        logger.warning("an image cannot be decoded: each is, in a child process", exc_info=True)
        return None


def write_predictions(
    output: Store,
    job: Job,
    shard: int,
    manifest: ManifestShard,
    predictions: Predictions,
    traffic: Traffic,
    kept: pa.Table = kept_rows.NONE,
) -> Receipt:
    """Commit a shard: its Parquet file appears whole, or not at all, and once.

    Ray repeats a shard whose receipt was lost with a node; on a store that fails it may come out
    otherwise. What was committed first stays, since it may have been counted.

    Args:
        output: Where to.
        job: What is done.
        shard: Number of the shard.
        manifest: All of its objects.
        predictions: Of those without a row in `kept`.
        traffic: What reading them took.
        kept: Rows taken over (kept_rows.py).
    """
    crash_point("shard-predicted")
    rows = kept_rows.find_unread(manifest, kept).table
    assert len(predictions.status) == len(rows), "a shard was split on its way"
    table = build_table(rows["id"], rows["path"], predictions, job.threshold)
    table = kept_rows.merge_rows(kept, table)
    num_accepted = pc.sum(table["accepted"], min_count=0).as_py()
    # a Python string for each row would be 1 us an image
    statuses = {
        count["values"]: count["counts"] for count in table["status"].value_counts().to_pylist()
    }
    receipt = Receipt(shard, len(table), num_accepted, statuses, traffic, len(kept))
    metadata = {
        **identify(job),
        "manifest_sha256": manifest.sha256,
        "receipt": receipt.encode(),
    }
    try:
        output.create(part_name(shard), encode_table(table, metadata))
    except FileExistsError:
        return find_receipt(output, job, shard) or receipt
    crash_point("part-written")
    return receipt


def find_receipt(output: Store, job: Job, shard: int) -> Receipt | None:
    """That of a shard, if it is committed; raises as `read_receipts` does."""
    part = output.find(part_name(shard))
    return next(read_receipts(output, job.job_id, [part])) if part else None


def read_receipts(output: Store, job_id: str, parts: Sequence[ObjectInfo]) -> Iterator[Receipt]:
    """The receipts of shards that earlier runs finished, out of the ends of their files.

    Raises:
        DamagedOutputError: the end of a file is damaged, or it is of another job.
        ObjectError: it cannot be read.
    """
    starts = [max(info.size - MAX_FOOTER_BYTES, 0) for info in parts]
    ranges = [
        ByteRange(info.name, start, info.size - start, info.etag)
        for info, start in zip(parts, starts, strict=True)
    ]
    for info, footer in zip(parts, output.read_ranges(ranges), strict=True):
        if isinstance(footer, ObjectError):
            raise footer
        try:
            metadata = read_metadata(footer)
            if metadata["job_id"] != job_id:
                raise ValueError("it is of another job")
            receipt = Receipt.decode(metadata["receipt"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedOutputError(
                f"{output.uri_of(info.name)} is damaged: {error}. Delete it and run the same "
                "command again."
            ) from error
        if part_name(receipt.shard) != info.name:
            raise DamagedOutputError(
                f"{output.uri_of(info.name)} is a copy of {part_name(receipt.shard)}. Delete it "
                "and run the same command again."
            )
        yield receipt
