"""Generations: whole outputs in one folder, of which readers see one at a time.

    OUTPUT/                     generation 0: an output like any other
    OUTPUT/_generations/0001/   generation 1, complete in itself: parts, manifest, `_SUCCESS`
    OUTPUT/_CURRENT             {"generation": 1}, which is read; where there is none, generation 0

A new generation grows beside the current one. Writing `_CURRENT` is the switch, after all else.
Only `prune` deletes any.
"""

import json
import re
from typing import Any

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.documents import read_document
from mnist_ocr.storage import Store, open_store, resolve_uri

FOLDER = "_generations/"
CURRENT = "_CURRENT"

_URI = re.compile(rf"(.*)/{FOLDER}(\d{{4,}})")
_FINISHED = re.compile(rf"{FOLDER}(\d{{4,}})/_SUCCESS")


def labels_uri(output_uri: str) -> str:
    """The folder of the rows that are current, for any reader of Parquet.

    Args:
        output_uri: Output of `mnist-ocr label`, local or on any store.

    Raises:
        UsageError: the output may not be read, or is damaged.
        StorageUnreachableError: the store does not answer.
    """
    root = open_store(output_uri)
    return generation_uri(root.uri, find_current(root))


def open_root(output_uri: str) -> Store:
    """An output with all of its generations.

    Raises:
        UsageError: the URI is that of one generation, or makes no sense.
    """
    if match := _URI.fullmatch(resolve_uri(output_uri)):
        raise UsageError(
            f"{output_uri} is one generation of an output. Pass the output: {match[1]}"
        )
    return open_store(output_uri)


def find_current(root: Store) -> int:
    """Number of the generation that is read.

    Raises:
        DamagedOutputError: `_CURRENT` is damaged.
    """
    number = read_document(
        root,
        CURRENT,
        _decode,
        'Write the number of the newest generation that has a _SUCCESS into it: {"generation": 1}.',
    )
    return number or 0


def _decode(document: Any) -> int:
    number = document["generation"]
    if type(number) is not int or number < 0:
        raise ValueError(f"the generation is {number!r}")
    return number


def look_for_newer(root: Store) -> tuple[int, str]:
    """Number of the generation that readers see, and what to do about a finished one after it.

    That one lacks the switch; or `_CURRENT`, which no other file vouches for, is lost or not as it
    was. Without one there is nothing to do: "".

    Raises:
        DamagedOutputError: `_CURRENT` is damaged.
    """
    names = (info.name for page in root.list(FOLDER) for info in page)
    finished = [int(match[1]) for name in names if (match := _FINISHED.fullmatch(name))]
    newest = max(finished, default=0)
    current = find_current(root)  # looked at last: a command may be switching
    if newest <= current:
        return current, ""
    return current, (
        f"{generation_uri(root.uri, newest)} is finished, and newer than the one that is read. "
        "Run the command that made it again, which switches to it; or write its number into "
        f'{root.uri_of(CURRENT)}: {{"generation": {newest}}}.'
    )


def switch_to(root: Store, number: int) -> None:
    """Have readers read another generation."""
    root.write(CURRENT, json.dumps({"generation": number}).encode())


def generation_uri(root_uri: str, number: int) -> str:
    """Where a generation lies."""
    return f"{root_uri}/{FOLDER}{number:04d}" if number else root_uri


def is_later_generation(uri: str) -> bool:
    """Whether it is that of a generation behind the first."""
    return _URI.fullmatch(uri) is not None


def sibling_uri(uri: str, number: int) -> str:
    """Where another generation of the same output lies."""
    match = _URI.fullmatch(uri)
    return generation_uri(match[1] if match else uri, number)


def open_generation(root: Store, number: int) -> Store:
    """A generation, as an output of its own."""
    return open_store(generation_uri(root.uri, number)) if number else root
