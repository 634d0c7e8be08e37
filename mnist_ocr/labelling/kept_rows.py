"""Rows that a generation takes over from its base: those of objects that are as they were."""

from dataclasses import replace
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.generations import sibling_uri
from mnist_ocr.labelling.job import Job
from mnist_ocr.labelling.manifest import part_name
from mnist_ocr.labelling.manifest_shard import ManifestShard, read_shard
from mnist_ocr.labelling.predictions import SCHEMA, decode_table
from mnist_ocr.storage import Store, open_store

NONE = SCHEMA.empty_table()
"""Of a generation without a base."""


def read_kept(job: Job, shard: int, manifest: ManifestShard) -> pa.Table:
    """A shard's rows in the base whose object is the same, and whose status is not to be redone.

    Args:
        job: Whose base is looked at; without one there are no such rows.
        shard: Number of the shard, the same in the base.
        manifest: Of the shard.

    Returns:
        Rows of the output's schema, in id order.

    Raises:
        UsageError: the base is damaged.
        ObjectError: it cannot be read.
    """
    if job.base is None:
        return NONE
    base = _open_once(sibling_uri(job.output_uri, job.base))
    try:
        old = read_shard(base, shard)
    except ObjectError as error:
        if error.status != "missing":
            raise
        return NONE  # of objects that are new
    if len(old.table) != len(manifest.table):
        return NONE  # a manifest that was lost, and listed anew
    rows = read_rows(base, shard)
    is_kept = pc.invert(pc.is_in(rows["status"].cast(pa.string()), pa.array(job.redo, pa.string())))
    for column in ("path", "size", "etag"):
        is_kept = pc.and_(is_kept, pc.equal(old.table[column], manifest.table[column]))
    return rows.filter(is_kept)


def read_rows(output: Store, shard: int) -> pa.Table:
    """The rows of a finished shard.

    Raises:
        UsageError: the file is damaged.
        ObjectError: it cannot be read.
    """
    try:
        return output.read_as(part_name(shard), decode_table)[0]
    except UsageError:  # of the credentials; a ValueError, too
        raise
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(
            f"{output.uri_of(part_name(shard))} is damaged: {error}. Delete it and _SUCCESS beside "
            "it, have `mnist-ocr label` make both again, without --update, and run this again."
        ) from error


def find_unread(manifest: ManifestShard, kept: pa.Table) -> ManifestShard:
    """The objects that have no row yet."""
    if not len(kept):
        return manifest
    is_kept = pc.is_in(manifest.table["id"], kept["id"].combine_chunks())
    return replace(manifest, table=manifest.table.filter(pc.invert(is_kept)))


def merge_rows(kept: pa.Table, labelled: pa.Table) -> pa.Table:
    """Both, in id order."""
    if not len(kept):
        return labelled
    rows = pa.concat_tables([kept, labelled]).combine_chunks()
    rows = rows.take(pc.sort_indices(rows["id"]))
    place = SCHEMA.get_field_index("status")
    # without the statuses that no row has any more, as if all had been labelled at once
    status = rows["status"].cast(pa.string()).combine_chunks().dictionary_encode()
    return rows.set_column(place, SCHEMA.field(place), status)


@cache
def _open_once(uri: str) -> Store:
    """One connection per worker process."""
    return open_store(uri)
