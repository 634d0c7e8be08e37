"""The manifest: which objects there are, in frozen shards. Listing appends to it, and resumes.

    OUTPUT/_manifest/00000000.arrow   id int64, path string, size int64, etag string
    OUTPUT/_manifest/00000001.arrow   ...
    OUTPUT/_manifest/complete.json    written when the listing has ended

A manifest shard is written before anything labels it and never changed; labelling turns each into
one Parquet file. Its metadata hold the frontier, what was left to list when it was full: the last
shard alone says where a listing that was cut off goes on. Arrow IPC and not Parquet, so that a
reader that takes every `*.parquet` below the output (DuckDB does) finds predictions only.
"""

import json
import re
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from mnist_ocr.crash import crash_point
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.lanes import Lane, Listing
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import ObjectInfo, Store

FOLDER = "_manifest/"
COMPLETE = FOLDER + "complete.json"

_SHARD_NAME = re.compile(r"_manifest/(\d{8})\.arrow")

FIRST_SHARD_SIZE = 1024
"""Images in each of the first two shards; then two of twice as many, and so on up to the job's
shard size: a small job is shared evenly, and a large one shows results at once."""

SPLIT_AT, SPLIT_INTERVAL = range(4, 16), 16
"""Shards before which lanes are split: from 6,144 objects on, since splitting takes longer than to
list a few pages, and then rarely, since lanes of few large archives are probed in vain."""

MAX_PROBE_BYTES = 1024**2
"""Larger objects are not fetched merely to see whether that is allowed."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
    ]
)


FRONTIER = b"frontier"
"""Key of a JSON list in a shard's metadata: name, size, etag and `until` of each lane."""


@dataclass(frozen=True)
class ManifestShard:
    """A frozen list of input objects: the unit of work."""

    table: pa.Table
    """Rows of `SCHEMA`, in id order."""

    @classmethod
    def decode(cls, data: bytes) -> "ManifestShard":
        """The shard that a file holds."""
        return cls(pa.ipc.open_file(pa.BufferReader(data)).read_all())

    @property
    def frontier(self) -> list[Lane]:
        """What was left to list when this shard was full."""
        lanes = json.loads(self.table.schema.metadata[FRONTIER])
        return [Lane(ObjectInfo(*after), until) for *after, until in lanes]

    def objects(self, source: Source) -> list[ObjectInfo]:
        """The rows as the source knows them."""
        skip = len(_escape(source.uri_of("")))
        columns = (self.table[name].to_pylist() for name in ("path", "size", "etag"))
        return [
            ObjectInfo(_unescape(path[skip:]), size, etag)
            for path, size, etag in zip(*columns, strict=True)
        ]


def shard_name(shard: int) -> str:
    """Name of a manifest shard below the output folder."""
    return f"{FOLDER}{shard:08d}.arrow"


def read_shard(output: Store, shard: int) -> ManifestShard:
    """One manifest shard.

    Raises:
        ObjectError: it is not there.
        pa.ArrowInvalid: it is damaged.
    """
    return output.read_as(shard_name(shard), ManifestShard.decode)


def read_totals(output: Store) -> dict[str, int] | None:
    """`num_shards` and `num_images` once the listing has ended, else None."""
    try:
        totals: dict[str, int] = output.read_as(COMPLETE, json.loads)
    except ObjectError as error:
        if error.status != "missing":
            raise
        return None
    return totals


def iterate_shards(source: Source, output: Store, *, shard_size: int) -> Generator[int, None, None]:
    """Every shard number in order: those on record first, then those that listing adds.

    A listing that was cut off goes on where the last shard on record ends; one that has ended is
    not repeated, so objects that arrive later belong to another job.
    """
    shards = list_shards(output)
    yield from shards
    if read_totals(output):
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
            crash_point("shard-listed")
            output.write(shard_name(next_shard), _encode(source, next_id, rows, listing.frontier))
            crash_point("shard-recorded")
            yield next_shard
            next_shard, next_id = next_shard + 1, next_id + len(rows)
    if not next_id:
        raise UsageError(f"No objects under {source.uri} any more: it was emptied, or unmounted.")
    totals = {"num_shards": next_shard, "num_images": next_id}
    crash_point("listing-ended")
    output.write(COMPLETE, json.dumps(totals).encode())
    crash_point("listing-recorded")


class ListingMonitor:
    """How far a listing is, for one request a look."""

    def __init__(self, output: Store, shard_size: int) -> None:
        self._output = output
        self._shard_size = shard_size
        self._last_name = FOLDER
        self.num_listed = 0
        """Objects on record."""
        self.has_ended = False

    def look(self) -> None:
        """Count the manifest shards that were written since the last look."""
        if self.has_ended:
            return
        for page in self._output.list(FOLDER, self._last_name):
            for info in page:
                if match := _SHARD_NAME.fullmatch(info.name):
                    self.num_listed += size_of_shard(int(match[1]), self._shard_size)
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


def list_shards(output: Store) -> list[int]:
    """Numbers of the manifest shards on record, in order."""
    return list(list_numbered(output, FOLDER, _SHARD_NAME))


def list_finished_shards(output: Store) -> dict[int, ObjectInfo]:
    """The Parquet files that exist by the numbers of their shards, in order."""
    return list_numbered(output, "part-", re.compile(r"part-(\d{8})\.parquet"))


def part_name(shard: int) -> str:
    """Name of a shard's Parquet file, its commit record, below the output folder."""
    return f"part-{shard:08d}.parquet"


def list_numbered(output: Store, prefix: str, pattern: re.Pattern[str]) -> dict[int, ObjectInfo]:
    """Objects whose name begins with `prefix` and matches, by the number in it, in order."""
    infos = (info for page in output.list(prefix) for info in page)
    return {int(match[1]): info for info in infos if (match := pattern.fullmatch(info.name))}


def _encode(
    source: Source, first_id: int, rows: Collection[ObjectInfo], frontier: Sequence[Lane]
) -> bytes:
    lanes = [[*lane.after, lane.until] for lane in frontier if lane.after]
    table = pa.Table.from_arrays(
        [
            pa.array(range(first_id, first_id + len(rows)), pa.int64()),
            pa.array(_escape(source.uri_of(info.name)) for info in rows),
            pa.array((info.size for info in rows), pa.int64()),
            pa.array(info.etag for info in rows),
        ],
        schema=SCHEMA.with_metadata({FRONTIER: json.dumps(lanes)}),
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


ESCAPED = "\\udc5cudc"
"""What a name that really contains `\\udc` has in its place: an escaped backslash."""


def _escape(path: str) -> str:
    """A file name that is not UTF-8 holds lone surrogates, which a string column cannot."""
    path = path.replace("\\udc", ESCAPED)
    return path if path.isascii() else path.encode(errors="backslashreplace").decode()


def _unescape(path: str) -> str:
    if "\\udc" not in path:
        return path
    path = re.sub(r"\\udc([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), path)
    return path.replace(ESCAPED, "\\udc")
