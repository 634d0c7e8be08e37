"""A shard's two files against each other: what was listed, and the rows that were made of it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mnist_ocr.labelling.job import Job
from mnist_ocr.labelling.manifest import part_name
from mnist_ocr.labelling.manifest_shard import decode_shard
from mnist_ocr.labelling.predictions import SCHEMA, decode_table, find_faults


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
    if rows is not None and (faults := compare(rows, objects, job.threshold)):
        rows, part_fault = None, f"is wrong: {', '.join(faults)}"
    return ShardCheck(objects, rows, manifest_fault, part_fault)


def decode_part(data: bytes, job: Job, shard: int) -> tuple[pa.Table, str]:
    """The rows of a part, and the sha256 of their manifest shard.

    Raises:
        ValueError: it is damaged, or of another job or shard; half a sentence.
    """
    try:
        rows, metadata = decode_table(data)
        found = {key: metadata[key] for key in ("job_id", "model_sha256", "version")}
        number, manifest_sha256 = metadata["receipt"]["shard"], metadata["manifest_sha256"]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is damaged: {error}") from error
    expected = identify(job)
    if found != expected:
        raise ValueError(f"is of another job: it has {found} and not {expected}")
    if number != shard:
        raise ValueError(f"is a copy of {part_name(number)}")
    if not rows.schema.equals(SCHEMA):
        raise ValueError("does not have the schema of docs/predictions.md")
    return rows, manifest_sha256


def identify(job: Job) -> dict[str, str | None]:
    """What each part says of its job."""
    return {
        "job_id": job.job_id,
        "model_sha256": job.model_sha256,
        "version": job.versions.get("mnist-ocr"),
    }


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


def compare(rows: pa.Table, objects: pa.Table | None, threshold: float | None) -> list[str]:
    """What is wrong with the rows of a part; the objects are not compared where there are none."""
    faults = list(find_faults(rows, threshold))
    if objects is not None:
        faults += [
            f"column {name} differs from the manifest's"
            for name in ("id", "path")
            if not rows[name].equals(objects[name])
        ]
    return faults
