"""The proof: every manifest id in exactly one row, from one model, and nothing else.

    the files' names    all are there, and no others (output_files.py)
    a part              has the sha256 that is in it; is of this job, model and shard; its ids and
                        paths are the manifest shard's; nulls and `accepted` follow from the rest
    a manifest shard    has the sha256 that is in its part; its ids go on from the last one's
    the objects         none is listed twice (duplicates.py)
    the totals          of the manifest and of `_SUCCESS` are those of the rows

Shards go by one after the other, and each file is read once. What is found is damage: a person
who means to deceive can make new checksums, too.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mnist_ocr.errors import DamagedOutputError, ObjectError, UsageError
from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.duplicates import DuplicateFinder, locate_duplicates
from mnist_ocr.labelling.generations import CURRENT, look_for_newer, open_generation
from mnist_ocr.labelling.job import JOB, Job, read_job
from mnist_ocr.labelling.manifest import PART_NAME, list_numbered, part_name
from mnist_ocr.labelling.manifest_shard import (
    FOLDER,
    SHARD_NAME,
    decode_shard,
    explain_relisting,
    shard_name,
)
from mnist_ocr.labelling.output_files import OutputFiles
from mnist_ocr.labelling.shard_check import check_shard
from mnist_ocr.storage import UNKNOWN_SIZE, Store, open_store

MAX_PROBLEMS = 20
"""Problems that are spelled out; the rest are counted."""

Content = bytes | ObjectError
"""Of a file, or why it cannot be read."""


@dataclass(frozen=True)
class Verification:
    """What was found; the job is whole if there are no problems."""

    output_uri: str
    num_images: int
    """Rows of the parts that are sound."""
    num_shards: int
    """Those parts."""
    statuses: dict[str, int]
    """Rows by status."""
    num_problems: int
    problems: list[str]
    """The first `MAX_PROBLEMS`: what is wrong, and what to do."""

    def format(self) -> str:
        """The problems, and the verdict in a line."""
        verdict = "whole: each listed object has one row"
        if self.num_problems:
            verdict = f"not whole, {self.num_problems:,} problems in all"
        found = f"{self.output_uri}: {self.num_images:,} sound rows, {verdict}"
        return "\n".join([*self.problems, found])


def verify(config: VerifyConfig) -> Verification:
    """Read a job's whole output, a shard at a time, and compare it with its manifest.

    Raises:
        UsageError: there is nothing of a labelling job in the folder, or it may not be read; or
            there is no room for temporary files.
        StorageUnreachableError: the store does not answer.
    """
    root = output = open_store(config.output_uri)
    try:
        number, newer = look_for_newer(root)
        output = open_generation(root, number)
        job = read_job(output, Job)
    except DamagedOutputError as error:
        return Verification(output.uri, 0, 0, {}, 1, [str(error)])
    if job:
        return _Verifier(output, job, newer).run()
    if not (number or newer or _has_files(root)):
        raise UsageError(f"{output.uri} holds no labelling job: there is no {JOB}. Check the path.")
    other = f"write another generation's number into {root.uri_of(CURRENT)}, " if number else ""
    problem = f"{output.uri_of(JOB)} is missing. Restore it from a copy, {other}or label into "
    return Verification(output.uri, 0, 0, {}, 1, [newer or f"{problem}another folder."])


def _has_files(output: Store) -> bool:
    """Whether there are files of a job that has lost its `_job.json`."""
    names = ((FOLDER, SHARD_NAME), ("part-", PART_NAME))
    return any(list_numbered(output, prefix, pattern) for prefix, pattern in names)


class _Verifier:
    """One verification: what has been found so far."""

    def __init__(self, output: Store, job: Job, newer: str) -> None:
        self._output = output
        self._job = job
        self._num_problems = 0
        self._problems: list[str] = []
        self._num_shards, self._num_images, self._num_accepted = 0, 0, 0
        self._statuses = Counter[str]()
        if newer:
            self._report(newer)
        self._files = OutputFiles(output, job, self._report)

    def _report(self, problem: str) -> None:
        self._num_problems += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)

    def run(self) -> Verification:
        """Check everything."""
        if self._files.check_job():
            is_complete = self._files.check_names()
            num_before = self._num_problems
            self._check_shards()
            if is_complete and self._num_problems == num_before:
                self._files.check_counts(
                    self._num_shards, self._num_images, self._num_accepted, dict(self._statuses)
                )
        return Verification(
            self._output.uri,
            self._num_images,
            self._num_shards,
            dict(self._statuses),
            self._num_problems,
            self._problems,
        )

    def _check_shards(self) -> None:
        next_id: int | None = 0
        with DuplicateFinder() as duplicates:
            for shard, manifest, part in self._read_shards():
                if shard and shard - 1 not in self._files.manifest:
                    next_id = None
                objects = self._check_shard(shard, next_id, manifest, part)
                if objects is None:
                    next_id = None
                else:
                    next_id = objects["id"][-1].as_py() + 1
                    duplicates.add(objects)
            self._check_duplicates(duplicates.find())

    def _read_shards(self) -> Iterator[tuple[int, Content, Content | None]]:
        """The number, manifest shard and part (None where there is none) of each, read ahead."""
        manifest, parts = self._files.manifest, self._files.parts
        wanted = [
            files[shard] for shard in manifest for files in (manifest, parts) if shard in files
        ]
        if not self._files.is_finished:  # then a command that runs may write a part once more
            wanted = [info._replace(etag="", size=UNKNOWN_SIZE) for info in wanted]
        contents = self._output.read_many(wanted)
        for shard in manifest:
            yield shard, next(contents), next(contents) if shard in parts else None

    def _check_shard(
        self, shard: int, first_id: int | None, manifest: Content, part: Content | None
    ) -> pa.Table | None:
        """The shard's objects, if they are known; its rows are counted if they are sound."""
        check = check_shard(
            self._job,
            shard,
            first_id,
            self._take(shard_name(shard), manifest),
            self._take(part_name(shard), part),
        )
        uri_of = self._output.uri_of
        if check.manifest_fault:
            advice = explain_relisting(self._output, shard)
            self._report(f"{uri_of(shard_name(shard))} {check.manifest_fault}. {advice}")
        if check.part_fault:
            advice = self._files.how_to_redo
            self._report(f"{uri_of(part_name(shard))} {check.part_fault}. {advice}")
        if (rows := check.rows) is not None:
            self._num_shards += 1
            self._num_images += len(rows)
            self._num_accepted += pc.sum(rows["accepted"], min_count=0).as_py()
            for count in pc.value_counts(rows["status"].cast(pa.string())).to_pylist():
                self._statuses[count["values"]] += count["counts"]
        return check.objects

    def _take(self, name: str, content: Content | None) -> bytes | None:
        """What was read, if it was."""
        if not isinstance(content, ObjectError):
            return content
        self._report(
            f"{self._output.uri_of(name)} cannot be read: {content} See to that, then verify again."
        )
        return None

    def _check_duplicates(self, hashes: NDArray[np.uint64]) -> None:
        if not len(hashes):
            return
        duplicates = locate_duplicates(self._reread_manifest(), hashes[:MAX_PROBLEMS])
        for name, shards in duplicates.items():
            self._report(
                f"{name} is listed {len(shards)} times, in the shards {shards}: a fault of the "
                "store, or of mnist-ocr. Label into another output folder."
            )
        self._num_problems += max(len(hashes) - MAX_PROBLEMS, 0)

    def _reread_manifest(self) -> Iterator[tuple[int, pa.Table]]:
        """The objects of the shards that are sound."""
        manifest = self._files.manifest
        contents = self._output.read_many(list(manifest.values()))
        for shard, data in zip(manifest, contents, strict=True):
            try:
                objects = decode_shard(data if isinstance(data, bytes) else b"")
            except ValueError:
                continue
            yield shard, objects.table
