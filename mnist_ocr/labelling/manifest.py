"""The manifest: which objects there are, in frozen shards. Listing appends to it, and resumes.

    OUTPUT/_manifest/00000000.arrow   id int64, path string, size int64, etag string
    OUTPUT/_manifest/00000001.arrow   ...
    OUTPUT/_manifest/complete.json    written when the listing has ended

A manifest shard is written before anything labels it and never changed; labelling turns each into
one Parquet file. Its metadata hold the frontier, what was left to list when it was full: the last
shard alone says where a listing that was cut off goes on. Of one shard: manifest_shard.py.
"""

import json
import re
from collections.abc import Collection, Generator, Iterable
from itertools import islice

from mnist_ocr.crash import crash_point
from mnist_ocr.errors import DamagedOutputError, ObjectError, UsageError
from mnist_ocr.labelling.documents import create, read_document
from mnist_ocr.labelling.lanes import Lane, Listing
from mnist_ocr.labelling.manifest_shard import (
    COMPLETE,
    FOLDER,
    SHARD_NAME,
    encode_rows,
    explain_relisting,
    read_shard,
    shard_name,
    tabulate,
)
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import ObjectInfo, Store

PART_NAME = re.compile(r"part-(\d{8})\.parquet")

FIRST_SHARD_SIZE = 1024
"""Images in each of the first two shards; then two of twice as many, and so on up to the job's
shard size: a small job is shared evenly, and a large one shows results at once."""

SPLIT_AT, SPLIT_INTERVAL = range(4, 16), 16
"""Shards before which lanes are split: from 6,144 objects on, since splitting takes longer than to
list a few pages, and then rarely, since lanes of few large archives are probed in vain."""

MAX_PROBE_BYTES = 1024**2
"""Larger objects are not fetched merely to see whether that is allowed."""


def read_totals(output: Store) -> dict[str, int] | None:
    """`num_shards` and `num_images` once the listing has ended, else None.

    Raises:
        DamagedOutputError: it is damaged.
    """
    return read_document(
        output,
        COMPLETE,
        lambda totals: {name: int(totals[name]) for name in ("num_shards", "num_images")},
        "Delete it and _SUCCESS, then run the same command again.",
    )


def iterate_shards(source: Source, output: Store, *, shard_size: int) -> Generator[int, None, None]:
    """Every shard number in order: those on record first, then those that listing adds.

    A listing that was cut off goes on where the last shard on record ends; one that has ended is
    not repeated, so objects that arrive later belong to another job.

    Raises:
        DamagedOutputError: a shard on record is missing, or damaged.
        UsageError: the input cannot be listed.
        StorageUnreachableError: a store does not answer.
    """
    totals = read_totals(output)  # first, so that there are as many shards even if another lists
    shards = list_shards(output)
    if totals and totals["num_shards"] != len(shards):
        raise DamagedOutputError(
            f"{output.uri_of(COMPLETE)} counts {totals['num_shards']:,} manifest shards, there are "
            f"{len(shards):,}. {explain_relisting(output, min(totals['num_shards'], len(shards)))}"
        )
    yield from shards
    if totals:
        return
    next_shard, next_id, frontier = 0, 0, [Lane()]
    if shards:
        last = read_shard(output, shards[-1])
        next_shard = shards[-1] + 1
        next_id = last.table["id"][-1].as_py() + 1
        frontier = last.frontier
    with Listing(source, frontier) as listing:
        while True:
            if next_shard in SPLIT_AT or (next_shard % SPLIT_INTERVAL == 0 and next_shard):
                listing.split()
            rows = listing.take(size_of_shard(next_shard, shard_size))
            if not rows:
                break
            data = encode_rows(tabulate(source, next_id, rows, listing.frontier))
            crash_point("shard-listed")
            create(output, shard_name(next_shard), data)
            crash_point("shard-recorded")
            yield next_shard
            next_shard, next_id = next_shard + 1, next_id + len(rows)
    if not next_id:
        raise UsageError(f"No objects under {source.uri} any more: it was emptied, or unmounted.")
    totals = {"num_shards": next_shard, "num_images": next_id}
    crash_point("listing-ended")
    create(output, COMPLETE, json.dumps(totals).encode())
    crash_point("listing-recorded")


class ListingMonitor:
    """How far a listing is, for one request a look."""

    def __init__(self, output: Store, shard_size: int) -> None:
        self._output = output
        self._shard_size = shard_size
        self._last_name = FOLDER
        self.num_listed, self.num_shards = 0, 0
        """Objects and shards on record."""
        self.has_ended = False

    def look(self) -> None:
        """Count the manifest shards that were written since the last look."""
        if self.has_ended:
            return
        for page in self._output.list(FOLDER, self._last_name):
            for info in page:
                if match := SHARD_NAME.fullmatch(info.name):
                    self.num_listed += size_of_shard(int(match[1]), self._shard_size)
                    self.num_shards += 1
                    self._last_name = info.name
        if totals := read_totals(self._output):  # the last shard may have fewer
            self.num_listed, self.has_ended = totals["num_images"], True


def size_of_shard(shard: int, shard_size: int) -> int:
    """Objects in a shard, if there are as many left."""
    return min(shard_size, FIRST_SHARD_SIZE << min(shard // 2, 16))


def check_input(source: Source) -> None:
    """Make sure that there is something to label.

    Raises:
        UsageError: there is no such folder, no right to list it or to read what is in it, or
            nothing in it.
        StorageUnreachableError: the store does not answer.
    """
    first = list(islice(source.list(), 3))
    for info in first:
        if info.size > MAX_PROBE_BYTES:
            break
        (content,) = source.read_many([info])
        if isinstance(content, ObjectError) and content.status == "forbidden":
            continue  # it alone, or all of them?
        break
    else:
        if first:
            raise UsageError(
                f"May list {source.uri} but not read it: the first objects are forbidden. "
                "Give these credentials the right to read (s3:GetObject)."
            )
        extensions = " or ".join(source.extensions)
        wanted = f" with the extension {extensions}" if extensions else ""
        advice = "Check the path" + (" or pass other --extensions." if extensions else ".")
        raise UsageError(f"No objects{wanted} under {source.uri}. {advice}")


def list_shards(output: Store) -> range:
    """Numbers of the manifest shards on record.

    Raises:
        DamagedOutputError: one is missing before another.
    """
    shards = list_numbered(output, FOLDER, SHARD_NAME)
    lost = find_gap(shards)
    if lost < len(shards):
        raise DamagedOutputError(
            f"{output.uri_of(shard_name(lost))} is missing. {explain_relisting(output, lost)}"
        )
    return range(len(shards))


def find_gap(shards: Collection[int]) -> int:
    """The first number that is not among them."""
    return next(number for number in range(len(shards) + 1) if number not in shards)


def check_finished(output: Store, finished: Iterable[int]) -> None:
    """Make sure that the manifest knows the finished shards, so that none has others' rows.

    Raises:
        DamagedOutputError: a manifest shard is missing.
    """
    last = max(finished, default=-1)
    if last >= 0 and last >= (num_shards := len(list_shards(output))):
        raise DamagedOutputError(
            f"{output.uri_of(shard_name(num_shards))} is missing, though shard {last:08d} is "
            f"finished. {explain_relisting(output, num_shards)}"
        )


def list_finished_shards(output: Store) -> dict[int, ObjectInfo]:
    """The Parquet files that exist by the numbers of their shards, in order."""
    return list_numbered(output, "part-", PART_NAME)


def part_name(shard: int) -> str:
    """Name of a shard's Parquet file, its commit record, below the output folder."""
    return f"part-{shard:08d}.parquet"


def list_numbered(output: Store, prefix: str, pattern: re.Pattern[str]) -> dict[int, ObjectInfo]:
    """Objects whose name begins with `prefix` and matches, by the number in it, in order."""
    infos = (info for page in output.list(prefix) for info in page)
    return {int(match[1]): info for info in infos if (match := pattern.fullmatch(info.name))}
