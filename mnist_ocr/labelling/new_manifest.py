"""The manifest of a generation with a base: the base's shards with what has changed, then others.

The command itself writes it, whole, before anything is labelled; `complete.json` comes last. One
that is not complete is written anew.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa

from mnist_ocr.ahead import call_in_blocks
from mnist_ocr.crash import crash_point
from mnist_ocr.errors import DamagedOutputError, UsageError
from mnist_ocr.labelling.documents import create
from mnist_ocr.labelling.manifest import list_finished_shards, list_shards
from mnist_ocr.labelling.manifest_shard import (
    COMPLETE,
    FOLDER,
    FRONTIER,
    SCHEMA,
    ManifestShard,
    encode_rows,
    explain_relisting,
    read_shard,
    shard_name,
)
from mnist_ocr.storage import Store

SHARD_BYTES = 1024**2
"""What a manifest shard is taken for: 8,192 objects were 50 to 400 KB, and 1.5 MB in memory."""

LISTED_SCHEMA = SCHEMA.with_metadata({FRONTIER: "[]"})
"""Of a shard behind which nothing is left to list."""


def read_shards(base: Store) -> Iterator[ManifestShard]:
    """All shards of a finished generation, in order.

    Raises:
        DamagedOutputError: one is missing, damaged or in the place of another.
    """
    next_id = 0
    reads = ((SHARD_BYTES, partial(read_shard, base, shard)) for shard in list_shards(base))
    for shard, manifest in enumerate(call_in_blocks(reads)):
        ids = manifest.table["id"]
        if ids[0].as_py() != next_id:
            raise DamagedOutputError(
                f"{base.uri_of(shard_name(shard))} does not hold the ids from {next_id} on. "
                f"{explain_relisting(base, shard)}"
            )
        yield manifest
        next_id = ids[-1].as_py() + 1


def write_manifest(
    output: Store, tables: Iterable[pa.Table], on_shard: Callable[[int], None]
) -> None:
    """Put all shards of a generation on record.

    Args:
        output: The generation.
        tables: The objects of each shard, in order.
        on_shard: Is told how many objects are on record.

    Raises:
        UsageError: there are rows already, which this manifest may not fit.
    """
    if list_finished_shards(output):
        raise UsageError(
            f"{output.uri} holds rows and has lost {COMPLETE}. Remove this unfinished generation "
            "(mnist-ocr prune), and run the same command again."
        )
    for name in _list_manifest(output):
        output.delete(name)  # of a run that was cut off, and whose objects may be others
    if left := _list_manifest(output):
        raise UsageError(
            f"Cannot delete {output.uri_of(left[0])}, which a run that was cut off has left. Give "
            "the right to delete there (s3:DeleteObject), then run the same command again."
        )
    numbers = count()
    writes = (
        (SHARD_BYTES, partial(_write_shard, output, next(numbers), table)) for table in tables
    )
    num_images = 0
    for num_rows in call_in_blocks(writes):
        num_images += num_rows
        on_shard(num_images)
    totals = {"num_shards": next(numbers), "num_images": num_images}
    crash_point("manifest-rewritten")
    create(output, COMPLETE, json.dumps(totals).encode())
    crash_point("manifest-complete")


def _list_manifest(output: Store) -> list[str]:
    return [info.name for page in output.list(FOLDER) for info in page]


def _write_shard(output: Store, shard: int, table: pa.Table) -> int:
    create(output, shard_name(shard), encode_rows(table))
    crash_point("manifest-shard-rewritten")
    return len(table)


def replace_objects(table: pa.Table, objects: Mapping[int, Mapping[str, Any]]) -> pa.Table:
    """A shard in which some rows have other values in some columns; they keep their ids."""
    if not objects:
        return table
    columns = {name: table[name].to_pylist() for name in table.column_names}
    for row, values in objects.items():
        for name in values.keys() - {"id"}:
            columns[name][row] = values[name]
    return pa.table(columns, schema=table.schema)
