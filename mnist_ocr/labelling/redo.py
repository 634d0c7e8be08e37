"""Rows that are worth another try: which they are, and what their objects are now."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mnist_ocr.ahead import call_in_blocks
from mnist_ocr.digits.batch import BLANK, OK
from mnist_ocr.digits.classifier import NOT_A_DIGIT
from mnist_ocr.digits.decoding import DECODE_STATUSES
from mnist_ocr.digits.isolation import POISON
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.kept_rows import read_base_job, read_rows
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.new_manifest import read_shards, replace_objects, write_manifest
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import ObjectInfo, Store

STATUSES = frozenset(
    {OK, BLANK, NOT_A_DIGIT, POISON, *DECODE_STATUSES}
    | {"missing", "changed", "forbidden", "throttled", "unreadable"}
)
"""All that a row may have."""

INFO_BYTES = 1024
"""What an answer about an object is taken for."""


def parse_statuses(text: str) -> tuple[str, ...]:
    """Sorted names out of `missing,throttled`.

    Raises:
        UsageError: one is no status, or there is none.
    """
    names = {name.strip() for name in text.split(",")} - {""}
    if unknown := sorted(names - STATUSES):
        raise UsageError(
            f"There is no status {', '.join(unknown)}. There are {', '.join(sorted(STATUSES))}."
        )
    if not names:
        raise UsageError("--status is empty. Pass statuses with commas between: missing,throttled.")
    return tuple(sorted(names))


def write_redone(
    source: Source,
    base: Store,
    output: Store,
    redo: Sequence[str],
    on_shard: Callable[[int], None],
) -> None:
    """Put a generation on record that has the base's objects, those to be redone as they are now.

    Args:
        source: The input.
        base: The generation whose rows are looked at.
        output: The new generation.
        redo: Statuses of the rows to be redone.
        on_shard: Is told how many objects are on record.
    """
    write_manifest(output, _make_shards(source, base, redo), on_shard)


def _make_shards(source: Source, base: Store, redo: Sequence[str]) -> Iterator[pa.Table]:
    job = read_base_job(base)
    for shard, manifest in enumerate(read_shards(base)):
        status = read_rows(base, job, shard, manifest)["status"].cast(pa.string())
        is_redone = pc.is_in(status, pa.array(redo))
        objects = replace(manifest, table=manifest.table.filter(is_redone)).objects(source)
        calls = ((INFO_BYTES, partial(_look_up, source, info)) for info in objects)
        infos = call_in_blocks(calls)
        rows = np.flatnonzero(is_redone.to_numpy()).tolist()
        found = ({"size": info.size, "etag": info.etag} for info in infos)
        yield replace_objects(manifest.table, dict(zip(rows, found, strict=True)))


def _look_up(source: Source, info: ObjectInfo) -> ObjectInfo:
    """An object's present size and etag, in a request.

    One that is gone stays as it was, and so do members of archives, and what a list names without
    an etag: that is read whatever it is.
    """
    locator = Locator.parse(info.etag)
    if locator.position or locator.status or not locator.etag:
        return info
    store, name = source.locate(info.name)
    try:
        found = store.find(name)
    except UsageError:  # it may be read without the right to list
        found = None
    if found is None:
        return info
    return info._replace(size=found.size, etag=locator._replace(etag=found.etag).encode())
