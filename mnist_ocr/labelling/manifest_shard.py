"""One manifest shard as a file: a frozen list of objects, the unit of work.

Arrow IPC and not Parquet, so that a reader that takes every `*.parquet` below the output (DuckDB
does) finds predictions only.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from mnist_ocr.errors import DamagedOutputError, UsageError
from mnist_ocr.labelling.generations import is_later_generation
from mnist_ocr.labelling.lanes import Lane
from mnist_ocr.labelling.sealing import UNSEALED, check_seal, seal
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import ObjectInfo, Store

FOLDER = "_manifest/"
COMPLETE = FOLDER + "complete.json"

SHARD_NAME = re.compile(r"_manifest/(\d{8})\.arrow")

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

SEAL = b"seal"
"""Key of a JSON document with the file's sha256."""


@dataclass(frozen=True)
class ManifestShard:
    """A frozen list of input objects: the unit of work."""

    table: pa.Table
    """Rows of `SCHEMA`, in id order; one at least."""
    frontier: list[Lane]
    """What was left to list when this shard was full."""
    sha256: str
    """That its file was sealed with: goes into the metadata of what is made of it."""

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
        DamagedOutputError: it is damaged.
        ObjectError: it is not there, or cannot be read.
    """
    try:
        return output.read_as(shard_name(shard), decode_shard)
    except UsageError:  # of the credentials; a ValueError, too
        raise
    except ValueError as error:
        name, advice = output.uri_of(shard_name(shard)), explain_relisting(output, shard)
        raise DamagedOutputError(f"{name} is damaged: {error}. {advice}") from error


def decode_shard(data: bytes) -> ManifestShard:
    """A manifest shard's content.

    Raises:
        ValueError: it is not as `encode_rows` made it.
    """
    sha256 = check_seal(data)
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        table.validate(full=True)  # else a wrong offset would have other memory read
        lanes = json.loads((table.schema.metadata or {})[FRONTIER])
        frontier = [Lane(ObjectInfo(*after), until) for *after, until in lanes]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not table.schema.equals(SCHEMA) or not len(table):
        raise ValueError("it has other columns, or no rows")
    return ManifestShard(table, frontier, sha256)


def explain_relisting(output: Store, shard: int) -> str:
    """What to do about a manifest shard that is lost: nothing else knows its objects."""
    if is_later_generation(output.uri):  # whose objects are in an order of its own
        return (
            "Restore it from a copy. If there is none, write the number of the generation before "
            "this one into _CURRENT, delete this one's _SUCCESS, remove the rest of it (mnist-ocr "
            "prune) and run its command again; or label into another output."
        )
    return (
        f"Restore it from a copy. If there is none, delete what has the number {shard:08d} or a "
        f"higher one, in {FOLDER}, too, as well as {COMPLETE} and _SUCCESS, and run the same "
        "command again: it lists and goes on from there."
    )


def tabulate(
    source: Source, first_id: int, rows: Collection[ObjectInfo], frontier: Sequence[Lane] = ()
) -> pa.Table:
    """Objects as rows of a manifest shard.

    Args:
        source: Of the objects.
        first_id: The first object's.
        rows: The objects.
        frontier: What is left to list behind them.
    """
    lanes = [[*lane.after, lane.until] for lane in frontier if lane.after]
    return pa.Table.from_arrays(
        [
            pa.array(range(first_id, first_id + len(rows)), pa.int64()),
            pa.array(_escape(source.uri_of(info.name)) for info in rows),
            pa.array((info.size for info in rows), pa.int64()),
            pa.array(info.etag for info in rows),
        ],
        schema=SCHEMA.with_metadata({FRONTIER: json.dumps(lanes)}),
    )


def encode_rows(table: pa.Table) -> bytes:
    """A manifest shard's file, sealed."""
    table = table.replace_schema_metadata({**table.schema.metadata, SEAL: json.dumps(UNSEALED)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(table)
    return seal(bytes(sink.getvalue()))


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
