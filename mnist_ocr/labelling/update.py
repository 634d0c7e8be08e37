"""What of an input is new or has changed since a generation was made of it.

The input is listed again. Of each object that the generation has, 16 bytes are held, a hash of
path, size and etag: 1.6 GB for 100 million. What is listed and has none of these hashes is new or
has changed; it goes to a temporary file, and its path tells which. Objects that are gone keep their
row.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from tempfile import TemporaryFile, gettempdir

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mnist_ocr.errors import DamagedOutputError, UsageError
from mnist_ocr.labelling.archives import archive_of
from mnist_ocr.labelling.lanes import Lane, Listing
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.manifest import (
    SPLIT_AT,
    SPLIT_INTERVAL,
    list_shards,
    read_totals,
    size_of_shard,
)
from mnist_ocr.labelling.manifest_shard import COMPLETE, SCHEMA, read_shard, tabulate
from mnist_ocr.labelling.new_manifest import (
    LISTED_SCHEMA,
    read_shards,
    replace_objects,
    write_manifest,
)
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import Store

HASH = np.dtype("S16")
"""16 bytes: that two of 200 million objects share one has a probability of 1e-22."""

BLOCK_LENGTH = 8192
"""Objects that are compared at once."""

Hashes = NDArray[np.bytes_]


@dataclass(frozen=True)
class Changes:
    """Objects that are new or have changed."""

    objects: pa.Table
    """As rows of a manifest; their ids mean nothing. Lies in a file."""
    healed: frozenset[bytes]
    """Hashes of the paths of archives that were no good when the base was listed, and now are."""

    def write(
        self, base: Store, output: Store, shard_size: int, on_shard: Callable[[int], None]
    ) -> None:
        """Put a generation on record that has them, beside what the base has.

        Args:
            base: The generation that they were compared with.
            output: The new generation.
            shard_size: Most objects in a shard that is new.
            on_shard: Is told how many objects are on record.
        """
        write_manifest(output, self._make_shards(base, shard_size), on_shard)

    def _make_shards(self, base: Store, shard_size: int) -> Iterator[pa.Table]:
        members = self._find_members(base) if self.healed else {}
        is_new = np.ones(len(self.objects), np.bool_)
        shard, next_id = 0, 0
        for table, found in self._match(base):
            for row in self._find_healed(table):
                place = members.pop(table["path"][row].as_py(), None)
                if place is not None:
                    found[row] = place
            is_new[list(found.values())] = False
            yield replace_objects(
                table, {row: self.objects.slice(i, 1).to_pylist()[0] for row, i in found.items()}
            )
            shard, next_id = shard + 1, table["id"][-1].as_py() + 1
        new = np.flatnonzero(is_new)
        while len(new):
            here, new = np.split(new, [size_of_shard(shard, shard_size)])
            # not by `take`, which would read all of the file
            part = self.objects.slice(here[0], here[-1] + 1 - here[0])
            part = part.filter(pa.array(is_new[here[0] : here[-1] + 1]))
            ids = pa.array(range(next_id, next_id + len(part)), pa.int64())
            columns = [ids, *(part[name] for name in ("path", "size", "etag"))]
            yield pa.Table.from_arrays(columns, schema=LISTED_SCHEMA)
            shard, next_id = shard + 1, next_id + len(part)

    def _match(self, base: Store) -> Iterator[tuple[pa.Table, dict[int, int]]]:
        """Each shard of the base, and which objects have taken the place of which of its rows."""
        batches = self.objects.to_batches()  # not all paths at once
        hashes = np.concatenate([_hash(batch["path"].to_pylist()) for batch in batches])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        num_taken = np.zeros(len(hashes), np.int32)  # of those with the same path, at the first
        for manifest in read_shards(base):
            rows, places = _find(hashes, _hash(manifest.table["path"].to_pylist()))
            found = {}
            for row, first in zip(rows.tolist(), places.tolist(), strict=True):
                place = first + num_taken[first]
                if place < len(hashes) and hashes[place] == hashes[first]:
                    num_taken[first] += 1
                    found[row] = int(order[place])
            yield manifest.table, found

    def _find_members(self, base: Store) -> dict[str, int]:
        """Of each archive that has healed, the first member that the base has not."""
        is_new = np.ones(len(self.objects), np.bool_)
        for _, found in self._match(base):
            is_new[list(found.values())] = False
        members: dict[str, int] = {}
        for place in np.flatnonzero(is_new).tolist():
            if Locator.parse(self.objects["etag"][place].as_py()).position:
                members.setdefault(archive_of(self.objects["path"][place].as_py()), place)
        return members

    def _find_healed(self, table: pa.Table) -> list[int]:
        """Rows of archives that were no good."""
        if not self.healed:
            return []
        return [i for i, path in enumerate(_hash(table["path"].to_pylist())) if path in self.healed]


@contextmanager
def find_changes(source: Source, base: Store, on_page: Callable[[int], None]) -> Iterator[Changes]:
    """List an input and compare it with a finished generation; the result lasts as the context.

    Args:
        source: The input.
        base: The generation.
        on_page: Is told how many objects are listed.

    Raises:
        UsageError: the input is gone or may not be listed, or there is no room for a temporary
            file.
        StorageUnreachableError: a store does not answer.
    """
    known, faulty = _read_known(base)
    with TemporaryFile() as file:  # without a name: nothing is left of a process that is killed
        with pa.ipc.new_file(file, SCHEMA) as writer:
            num_listed = 0
            for table in _list(source):
                num_listed += len(table)
                faulty -= _find_faulty(table)
                unknown = np.ones(len(table), np.bool_)
                unknown[_find(known, _hash(_describe(table)))[0]] = False
                if unknown.any():
                    _append(writer, table.filter(pa.array(unknown)))
                on_page(num_listed)
        if not num_listed:
            raise UsageError(
                f"No objects under {source.uri} any more: it was emptied, or unmounted."
            )
        del known
        file.flush()
        mapped = pa.py_buffer(mmap(file.fileno(), 0, access=ACCESS_READ))
        yield Changes(pa.ipc.open_file(mapped).read_all(), frozenset(faulty))


def _list(source: Source) -> Iterator[pa.Table]:
    with Listing(source, [Lane()]) as listing:
        number = 0
        while objects := listing.take(BLOCK_LENGTH):
            yield tabulate(source, 0, objects)
            number += 1
            if number in SPLIT_AT or number % SPLIT_INTERVAL == 0:
                listing.split()


def _append(writer: pa.ipc.RecordBatchFileWriter, table: pa.Table) -> None:
    try:
        writer.write_table(table)
    except OSError as error:
        raise UsageError(
            f"Cannot write to {gettempdir()}: {error}. Make room there, some 200 bytes for each "
            "object that is new or has changed, or set TMPDIR to another folder."
        ) from error


def _read_known(base: Store) -> tuple[Hashes, set[bytes]]:
    """The sorted hashes of a generation's objects, and those of the paths of archives no good."""
    totals = read_totals(base)
    if not totals:
        raise DamagedOutputError(
            f"{base.uri_of(COMPLETE)} is missing. Delete {base.uri_of('_SUCCESS')} and run the "
            "command without --update, which lists what is missing; then update."
        )
    shards = list_shards(base)
    num_images = read_shard(base, shards[-1]).table["id"][-1].as_py() + 1 if shards else 0
    if totals != (found := {"num_shards": len(shards), "num_images": num_images}):
        raise DamagedOutputError(
            f"{base.uri_of(COMPLETE)} counts {totals}, the manifest has {found}. Verify it "
            f"(mnist-ocr verify {base.uri}), which says what to do."
        )
    known, end = np.empty(num_images, HASH), 0
    faulty = set()
    for shard in read_shards(base):
        start, end = end, end + len(shard.table)
        known[start:end] = _hash(_describe(shard.table))
        faulty |= _find_faulty(shard.table)
    known.sort()
    return known, faulty


def _find_faulty(table: pa.Table) -> set[bytes]:
    """Hashes of the paths of what was no good when it was listed."""
    located = table.filter(pc.match_substring(table["etag"], "\t"))  # few, where there are any
    rows = zip(located["path"].to_pylist(), located["etag"].to_pylist(), strict=True)
    return set(_hash(path for path, etag in rows if Locator.parse(etag).status).tolist())


def _describe(table: pa.Table) -> Iterator[str]:
    """What is another text if an object has changed.

    The number of a list's line is left out: a line that is inserted changes all behind it.
    """
    columns = (table[name].to_pylist() for name in ("path", "size", "etag"))
    for path, size, etag in zip(*columns, strict=True):
        content = Locator.parse(etag)._replace(line="").encode() if "\t" in etag else etag
        yield f"{path}\0{size}\0{content}"


def _hash(texts: Iterable[str]) -> Hashes:
    return np.frombuffer(
        b"".join(blake2b(text.encode(), digest_size=16).digest() for text in texts), HASH
    )


def _find(known: Hashes, hashes: Hashes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of the hashes are known, and the first place of each among those known, sorted."""
    if not len(known):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    places = np.searchsorted(known, hashes)
    places[places == len(known)] = 0
    rows = np.flatnonzero(known[places] == hashes)
    return rows, places[rows]
