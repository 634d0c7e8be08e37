"""Rows that a generation takes over from its base: those of objects that are as they were."""

from dataclasses import replace
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from mnist_ocr.errors import DamagedOutputError, ObjectError, UsageError
from mnist_ocr.labelling.generations import sibling_uri
from mnist_ocr.labelling.job import JOB, Job, read_job
from mnist_ocr.labelling.manifest import part_name
from mnist_ocr.labelling.manifest_shard import ManifestShard, read_shard
from mnist_ocr.labelling.predictions import SCHEMA
from mnist_ocr.labelling.shard_check import compare, decode_part
from mnist_ocr.storage import Store, open_store

RERUN = "run `mnist-ocr label` with the same settings again"
"""Also where `retry` has made the generation, since that wants a finished one."""

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
        DamagedOutputError: the base is damaged.
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
    rows = read_rows(base, _read_job_once(base.uri, job.job_id), shard, old)
    is_kept = pc.invert(pc.is_in(rows["status"].cast(pa.string()), pa.array(job.redo, pa.string())))
    for column in ("path", "size", "etag"):
        is_kept = pc.and_(is_kept, pc.equal(old.table[column], manifest.table[column]))
    return rows.filter(is_kept)


def read_rows(output: Store, job: Job, shard: int, manifest: ManifestShard) -> pa.Table:
    """The rows of a finished shard, if `verify` would find nothing wrong with them.

    They get a new checksum where they are taken over, which would hide whatever is.

    Args:
        output: Where they are.
        job: That they should be of.
        shard: Number of the shard.
        manifest: That they should be of.

    Raises:
        DamagedOutputError: the file is damaged, or another.
        ObjectError: it cannot be read.
    """

    def decode(data: bytes) -> pa.Table:
        rows, manifest_sha256 = decode_part(data, job, shard)
        if manifest_sha256 != manifest.sha256:
            raise ValueError("was made of another manifest shard")
        if faults := compare(rows, manifest.table, job.threshold):
            raise ValueError(f"is wrong: {', '.join(faults)}")
        return rows

    try:
        return output.read_as(part_name(shard), decode)
    except UsageError:  # of the credentials; a ValueError, too
        raise
    except ValueError as error:
        raise DamagedOutputError(
            f"{output.uri_of(part_name(shard))} {error}. "
            f"{explain_redoing(job, 'it and _SUCCESS beside it')} Then run this again."
        ) from error


def explain_redoing(job: Job, what: str) -> str:
    """What to do about a part that is lost.

    Args:
        job: Of the part.
        what: What is to be deleted.
    """
    if job.base is None:
        return f"Delete {what}, then {RERUN}."
    return (
        f"Restore it from a copy. If there is none, delete {what}, then {RERUN}; but objects that "
        f"are gone become `missing` if generation {job.base}, which has their rows, is pruned."
    )


def read_base_job(base: Store) -> Job:
    """The job that the rows of a base are of.

    Raises:
        DamagedOutputError: it is damaged, or not there.
    """
    if job := read_job(base, Job):
        return job
    raise DamagedOutputError(
        f"{base.uri_of(JOB)} is missing. Restore it from a copy; or, if nobody needs the rows "
        "beside it, delete them, too (mnist-ocr prune), and run this again."
    )


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


@cache
def _read_job_once(base_uri: str, job_id: str) -> Job:
    """Once per worker process and new job."""
    return read_base_job(_open_once(base_uri))
