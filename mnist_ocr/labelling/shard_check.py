"""A shard's two files against each other: what was listed, and the rows that were made of it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mnist_ocr.labelling.job import Job
from mnist_ocr.labelling.manifest_shard import decode_shard
from mnist_ocr.labelling.predictions import find_faults
from mnist_ocr.labelling.shards import decode_part


@dataclass(frozen=True)
class ShardCheck:
    """What a shard's files hold, as far as they are sound."""

    objects: pa.Table | None
    """Of the manifest shard."""
    rows: pa.Table | None
    """Of the part."""
    manifest_fault: str
    part_fault: str
    """Half a sentence on what is wrong with the file; "" for nothing."""


def check_shard(
    job: Job, shard: int, first_id: int | None, manifest: bytes | None, part: bytes | None
) -> ShardCheck:
    """Decode and compare a shard's files, either of which may be missing.

    Args:
        job: That they should be of.
        shard: The number that they should have.
        first_id: That it should begin with; None if that is not known.
        manifest: Content of the manifest shard.
        part: Content of the Parquet file.
    """
    objects, rows = None, None
    manifest_sha256, manifest_fault, part_fault = "", "", ""
    if part is not None:
        try:
            rows, manifest_sha256 = decode_part(part, job, shard)
        except ValueError as error:
            part_fault = str(error)
    if manifest is not None:
        try:
            objects = _decode_manifest(manifest, manifest_sha256, first_id)
        except ValueError as error:
            manifest_fault = str(error)
    if rows is not None and (faults := _compare(rows, objects, job.threshold)):
        rows, part_fault = None, f"is wrong: {', '.join(faults)}"
    return ShardCheck(objects, rows, manifest_fault, part_fault)


def _decode_manifest(data: bytes, sha256: str, first_id: int | None) -> pa.Table:
    """The objects; the part knows the sha256 if there is one."""
    try:
        shard = decode_shard(data)
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from error
    if sha256 not in ("", shard.sha256):
        raise ValueError("is not the one that its part was made of")
    ids = shard.table["id"].to_numpy()
    first_id = int(ids[0]) if first_id is None else first_id
    if not np.array_equal(ids, np.arange(first_id, first_id + len(ids))):
        raise ValueError(f"does not hold the ids from {first_id} on")
    return shard.table


def _compare(rows: pa.Table, objects: pa.Table | None, threshold: float | None) -> list[str]:
    faults = list(find_faults(rows, threshold))
    if objects is not None:
        faults += [
            f"column {name} differs from the manifest's"
            for name in ("id", "path")
            if not rows[name].equals(objects[name])
        ]
    return faults
