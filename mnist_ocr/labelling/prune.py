"""`prune(config)`: the generations that nobody reads any more are deleted.

`_SUCCESS` and `_job.json` go first: no command takes what is left after a crash for a generation,
and the next `prune` deletes it.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mnist_ocr.ahead import MAX_THREADS
from mnist_ocr.crash import crash_point
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import PruneConfig
from mnist_ocr.labelling.generations import (
    FOLDER,
    generation_uri,
    look_for_newer,
    open_generation,
    open_root,
)
from mnist_ocr.labelling.job import JOB, Job, read_job
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.manifest import PART_NAME
from mnist_ocr.labelling.manifest_shard import COMPLETE, SHARD_NAME
from mnist_ocr.labelling.manifest_shard import FOLDER as MANIFEST
from mnist_ocr.labelling.summary import SUCCESS
from mnist_ocr.storage import ObjectInfo, Store, is_local

BATCH_LENGTH = 1000
"""Files that are deleted between two looks at the lease: a second or two on S3."""

_FIRST_FILE = re.compile(
    rf"{PART_NAME.pattern}|{SHARD_NAME.pattern}|{COMPLETE}|{JOB}|{SUCCESS}"
    rf"|(?:{MANIFEST})?\.[^/]*\.tmp"
)
"""Of generation 0, whose folder may hold what is not ours."""

_OTHER_FILE = re.compile(rf"{FOLDER}(\d{{4,}})/.*", re.S)


@dataclass(frozen=True)
class Pruning:
    """What was deleted, or would be."""

    output_uri: str
    current_uri: str
    """Of the generation that stays."""
    generation_uris: list[str]
    """Of those that do not."""
    num_files: int
    num_bytes: int
    dry_run: bool


def prune(config: PruneConfig) -> Pruning:
    """Delete all generations but the current one.

    Raises:
        UsageError: there is no job in the folder, another command is at work on it, or a file
            cannot be deleted.
        StorageUnreachableError: the store does not answer; the same command goes on.
    """
    root = open_root(config.output_uri)
    current, generations = _find_old(root)
    if not config.dry_run:
        with Lease(root) as lease:
            current, generations = _find_old(root)
            for number, infos in generations.items():
                _delete(root, number, [info.name for info in infos], lease.check)
    infos = [info for infos in generations.values() for info in infos]
    return Pruning(
        root.uri,
        generation_uri(root.uri, current),
        [generation_uri(root.uri, number) for number in generations],
        len(infos),
        sum(info.size for info in infos),
        config.dry_run,
    )


def _find_old(root: Store) -> tuple[int, dict[int, list[ObjectInfo]]]:
    """The current generation's number, and the files of the others."""
    current, newer = look_for_newer(root)
    if not read_job(open_generation(root, current), Job):
        raise UsageError(f"{root.uri} holds no labelling job: there is no {JOB}. Check the path.")
    if newer:
        raise UsageError(newer)
    generations = _list_generations(root)
    generations.pop(current, None)
    return current, generations


def delete_generation(root: Store, number: int, check: Callable[[], None]) -> None:
    """Delete one that readers do not see.

    Args:
        root: The output with all of its generations.
        number: Of the generation.
        check: Raises where the output is not held any more; is asked every `BATCH_LENGTH` files.

    Raises:
        UsageError: a file cannot be deleted.
    """
    _delete(root, number, [info.name for info in _list_generations(root)[number]], check)


def _list_generations(root: Store) -> dict[int, list[ObjectInfo]]:
    """The files of each generation, in order."""
    found = defaultdict[int, list[ObjectInfo]](list)
    for page in root.list():
        for info in page:
            if match := _OTHER_FILE.fullmatch(info.name):
                found[int(match[1])].append(info)
            elif _FIRST_FILE.fullmatch(info.name):
                found[0].append(info)
    return dict(sorted(found.items()))


def _delete(root: Store, number: int, names: list[str], check: Callable[[], None]) -> None:
    check()
    folder = f"{FOLDER}{number:04d}/" if number else ""
    root.delete(folder + SUCCESS)
    root.delete(folder + JOB)
    crash_point("job-deleted")
    with ThreadPoolExecutor(MAX_THREADS, "delete") as pool:
        for start in range(0, len(names), BATCH_LENGTH):
            check()
            list(pool.map(root.delete, names[start : start + BATCH_LENGTH]))
    if left := _list_generations(root).get(number):
        raise UsageError(
            f"Cannot delete {root.uri_of(left[0].name)} ({len(left):,} files in all). Give the "
            "right to delete there (s3:DeleteObject), then run the same command again."
        )
    if is_local(root.uri):  # whose empty folders stay
        for path, _, _ in os.walk(root.uri_of(folder or MANIFEST), topdown=False):
            with suppress(OSError):
                Path(path).rmdir()
