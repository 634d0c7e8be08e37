"""Which objects a manifest names twice: in the same memory however many there are."""

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from errno import ENOSPC
from tempfile import TemporaryFile, gettempdir
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mnist_ocr.errors import UsageError

NUM_BITS = 6
"""First bits of a hash that choose its file, of 64: for 100 million objects 12.5 MB each."""


class DuplicateFinder:
    """64-bit hashes of objects, in temporary files: 8 bytes an object.

    That two of 100 million objects share one has a probability of 0.0003: confirm what is found.
    """

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._files = [
                stack.enter_context(TemporaryFile(buffering=0)) for _ in range(1 << NUM_BITS)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, manifest: pa.Table) -> None:
        """The objects of a manifest shard.

        Raises:
            UsageError: the disk is full.
        """
        hashes = np.sort(_hash(_name_objects(manifest)))
        shift = np.uint64(64 - NUM_BITS)
        starts = np.searchsorted(hashes, np.arange(1, 1 << NUM_BITS, dtype=np.uint64) << shift)
        try:
            for file, part in zip(self._files, np.split(hashes, starts), strict=True):
                if file.write(part.tobytes()) != part.nbytes:
                    raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError as error:
            raise UsageError(
                f"Cannot write to {gettempdir()}: {error.strerror}. Make room there, 8 bytes for "
                "each object of the job, or set TMPDIR to another folder."
            ) from error

    def find(self) -> NDArray[np.uint64]:
        """Each hash that was added more than once."""
        found = []
        for file in self._files:
            file.seek(0)
            hashes = np.sort(np.frombuffer(file.read(), np.uint64))
            found.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
        return np.concatenate(found)


def locate_duplicates(
    manifest_shards: Iterable[tuple[int, pa.Table]], hashes: NDArray[np.uint64]
) -> dict[str, list[int]]:
    """The shards of each object with one of these hashes that is indeed there more than once."""
    shards = defaultdict(list)
    for shard, manifest in manifest_shards:
        names = _name_objects(manifest)
        for row in np.flatnonzero(np.isin(_hash(names), hashes)):
            shards[names[row].as_py()].append(shard)
    return {name: where for name, where in shards.items() if len(where) > 1}


def _name_objects(manifest: pa.Table) -> pa.ChunkedArray:
    """The path of each row; behind it what tells members of an archive, or lines of a list, apart.

    They may share a path; their etag column says which it is from the first tab on (`Locator`).
    """
    paths, etags = manifest["path"], manifest["etag"]
    if not pc.any(pc.match_substring(etags, "\t")).as_py():
        return paths
    which = pc.replace_substring_regex(etags, r"^[^\t]*", "")
    return pc.binary_join_element_wise(paths, which, "")


def _hash(names: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Others in each process."""
    return np.fromiter(map(hash, names.to_pylist()), np.int64, len(names)).view(np.uint64)
