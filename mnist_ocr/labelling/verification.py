"""The proof: every manifest id in exactly one row, from one model, and nothing else."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mnist_ocr.digits.batch import OK
from mnist_ocr.digits.classifier import NOT_A_DIGIT
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import lease
from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.job import JOB, Job, read_job
from mnist_ocr.labelling.manifest import (
    COMPLETE,
    FOLDER,
    list_finished_shards,
    list_shards,
    part_name,
    read_shard,
    read_totals,
    shard_name,
)
from mnist_ocr.labelling.predictions import SCHEMA, decode_table, digest_rows
from mnist_ocr.labelling.summary import SUCCESS, LabelSummary, read_summary
from mnist_ocr.storage import Store, open_store

DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError)
"""What reading a damaged file raises."""

MAX_PROBLEMS = 20
"""Problems that are spelled out; the rest are counted."""


@dataclass(frozen=True)
class Verification:
    """What was found; the job is whole if there are no problems."""

    output_uri: str
    num_images: int
    num_shards: int
    statuses: dict[str, int]
    """Rows by status."""
    num_problems: int
    problems: list[str]
    """The first `MAX_PROBLEMS`, one sentence each."""


def verify(config: VerifyConfig) -> Verification:
    """Read a job's whole output, a shard at a time, and compare it with its manifest.

    Raises:
        UsageError: there is no job in the folder, or it may not be read.
        StorageUnreachableError: the store does not answer.
    """
    output = open_store(config.output_uri)
    job = read_job(output, Job)
    if job is None:
        raise UsageError(f"{output.uri} holds no labelling job: there is no {JOB}. Check the path.")
    shards, parts = list_shards(output), set(list_finished_shards(output))
    problems = list(_check_files(output, set(shards), parts))
    statuses: Counter[str] = Counter()
    next_id = 0
    for shard in shards:
        try:
            manifest = read_shard(output, shard).table
            if manifest["id"][0].as_py() != next_id:
                problems.append(f"{shard_name(shard)} does not begin with id {next_id}.")
            next_id = manifest["id"][-1].as_py() + 1
            if shard in parts:
                statuses += _check_shard(output, job, shard, manifest, problems)
        except (UsageError, ConnectionError):
            raise  # the credentials' or the store's fault says nothing of the files
        except DAMAGE as error:
            problems.append(f"Shard {shard} cannot be read: {error}.")
    try:
        problems += _check_summary(output, statuses.total(), len(parts), dict(statuses))
    except (ValueError, TypeError, KeyError) as error:
        problems.append(f"{SUCCESS} or {COMPLETE} cannot be read: {error}.")
    return Verification(
        output.uri,
        statuses.total(),
        len(parts),
        dict(statuses),
        len(problems),
        problems[:MAX_PROBLEMS],
    )


def _check_files(output: Store, manifest: set[int], parts: set[int]) -> Iterator[str]:
    for shard in sorted(manifest - parts):
        yield f"{part_name(shard)} is missing: run the same label command again."
    for shard in sorted(parts - manifest):
        yield f"{part_name(shard)} belongs to no manifest shard: it is not of this job."
    for shard in sorted(set(range(len(manifest))) - manifest):
        yield f"{shard_name(shard)} is missing: its objects are not accounted for."
    expected = {JOB, SUCCESS} | {part_name(shard) for shard in parts}
    for page in output.list():
        for info in page:
            # a marker, a temporary file, those of other modules
            is_known = info.name == "" or info.name.startswith((".", FOLDER, lease.FOLDER))
            if info.name not in expected and not is_known:
                yield f"{info.name} is foreign: readers of the folder may take it for labels."


def _check_shard(
    output: Store, job: Job, shard: int, manifest: pa.Table, problems: list[str]
) -> Counter[str]:
    """Compare a shard with its manifest; returns its rows by status."""
    table, metadata = decode_table(output.read(part_name(shard)))
    name = part_name(shard)
    if not table.schema.equals(SCHEMA):
        problems.append(f"{name} does not have the schema of docs/predictions.md.")
        return Counter()
    if metadata.get("model_sha256") != job.model_sha256 or metadata.get("job_id") != job.job_id:
        problems.append(f"{name} is of another job or model.")
    for column in ("id", "path"):
        if not table[column].equals(manifest[column]):
            problems.append(f"{name}: column {column} differs from the manifest.")
    if metadata.get("rows_sha256") != digest_rows(table):
        problems.append(f"{name}: the rows do not have their sha256: the file is damaged.")
    status = table["status"].cast(pa.string())
    read = pc.is_in(status, pa.array([OK, NOT_A_DIGIT]))
    for column in ("digit", "confidence", "probabilities"):
        if not table[column].is_valid().equals(read):
            problems.append(f"{name}: {column} must be there just where an image was read.")
    if job.threshold is None:
        wanted = pc.and_(read, False)
    else:
        sure = pc.greater_equal(table["confidence"], pa.scalar(job.threshold, pa.float32()))
        wanted = pc.and_(pc.equal(status, OK), sure.fill_null(False))
    if not table["accepted"].equals(wanted):
        problems.append(f"{name}: accepted does not follow from status and confidence.")
    return Counter(table["status"].to_pylist())


def _check_summary(
    output: Store, num_images: int, num_shards: int, statuses: dict[str, int]
) -> Iterator[str]:
    summary, totals = read_summary(output, LabelSummary), read_totals(output)
    if totals is None:
        yield "The listing has not ended: run the same label command again."
    elif (totals["num_shards"], totals["num_images"]) != (num_shards, num_images):
        yield (
            f"The manifest counts {totals['num_images']:,} images in {totals['num_shards']:,} "
            f"shards, there are {num_images:,} rows in {num_shards:,}."
        )
    if summary is None:
        yield f"There is no {SUCCESS}: run the same label command again."
    elif (summary.num_images, summary.statuses) != (num_images, statuses):
        yield f"{SUCCESS} counts {summary.statuses}, the rows {statuses}."
