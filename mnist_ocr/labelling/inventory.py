"""What an input holds, for `plan`: counted as far as that is quick, else estimated.

A folder's archives are not opened while it is listed: a thousand of them would take hours. One of
each kind is, and stands for the others, by size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import mean, stdev
from time import monotonic, process_time

from mnist_ocr.labelling.archives import find_format
from mnist_ocr.labelling.census import SAMPLE_SIZE, Census, Kind, limit_bytes, merge_rare
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.key_space import LAST_CHARACTER, KeySpace, Part
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import PAGE_SIZE, ObjectInfo, Page, Store

TIMEOUT_S = 60.0
"""Seconds after which listing, estimating, or listing an archive, makes do with what it has."""

MIN_ERROR = 0.01
"""Of an estimate: descents that agree may have missed the same crowded corner."""

MIN_DESCENTS, MAX_DESCENTS = 8, 64
"""Into the key space. The first is too few to trust their spread; a hundred would take longer than
they are worth."""

WANTED_ERROR = 0.05
"""Of the estimated number of objects, relative, at 95% confidence: no more descents are needed."""


@dataclass(frozen=True)
class Inventory:
    """What there is."""

    kinds: list[Kind]
    """Largest number of images first."""
    relative_error: float | None
    """Of the number of objects, at 95% confidence; 0 if they were counted, None if listing was cut
    off: there are at least so many."""
    num_list_requests: int
    num_prefixes: int
    """Folders on top that were seen, 1 if there are none."""
    list_core_s: float
    """Seconds of a core for listing all of it, as long as archives are not opened."""

    @property
    def num_objects(self) -> float:
        """In all."""
        return sum(kind.num_objects for kind in self.kinds)

    @property
    def num_images(self) -> float:
        """In all, members of archives for their archives."""
        return sum(kind.num_images for kind in self.kinds)

    @property
    def size_bytes(self) -> float:
        """In all."""
        return sum(kind.size_bytes for kind in self.kinds)


def take_inventory(source: Source, max_objects: int) -> Inventory:
    """List an input, or estimate what cannot be listed soon.

    Raises:
        UsageError: there is no such input, or it may not be listed.
        StorageUnreachableError: the store does not answer.
    """
    is_folder = source.uri_of("") == f"{source.uri}/"
    store = source._store if isinstance(source, FolderSource) and is_folder else None
    objects = _list_folder(store, source) if store else source.list()
    can_estimate = store is not None and source.uri.startswith("s3://")
    most = max_objects if can_estimate or not store else None
    cpu_started = process_time()
    census, num_listed, last = _count(objects, most)
    list_core_s = process_time() - cpu_started
    num_requests = -(-num_listed // PAGE_SIZE) or 1
    error: float | None = 0.0
    if last:
        error = None
        if store and can_estimate and _can_start_anywhere(store, last.name):
            space = KeySpace(lambda prefix, after: _list_page(store, prefix, after))
            census, error = _estimate(space, source)
            num_requests += space.num_requests
    kinds = merge_rare(list(census.kinds.values()))
    if store:
        list_core_s *= sum(kind.num_objects for kind in kinds) / max(num_listed, 1)
        for kind in kinds:
            if kind.is_archive:
                _open_one(kind, store, source.extensions, max_objects)
    for kind in kinds:
        kind.sample = limit_bytes(kind.sample)
    kinds.sort(key=lambda kind: -kind.num_images)
    return Inventory(kinds, error, num_requests, len(census.prefixes), list_core_s)


def _count(
    objects: Iterator[ObjectInfo], max_objects: int | None
) -> tuple[Census, int, ObjectInfo | None]:
    """Count until the limit or the timeout; how many, and the last one if there are more."""
    census, num_listed = Census(), 0
    deadline = monotonic() + TIMEOUT_S
    while batch := list(islice(objects, PAGE_SIZE)):
        census.add(batch)
        num_listed += len(batch)
        if (max_objects and num_listed >= max_objects) or monotonic() > deadline:
            return census, num_listed, batch[-1] if next(objects, None) else None
    return census, num_listed, None


def _list_folder(store: Store, source: Source) -> Iterator[ObjectInfo]:
    for page in store.list():
        yield from _choose(page, source)


def _choose(page: Page, source: Source) -> Page:
    """Those that `label` would read; of an archive's members the extensions may choose none."""
    endings = tuple(extension.lower() for extension in source.extensions)
    if not endings:
        return page
    return [i for i in page if i.name.lower().endswith(endings) or find_format(i.name)]


def _can_start_anywhere(store: Store, name: str) -> bool:
    """Whether a listing begins behind a name that no object has; on rclone's server it does not."""
    behind = _list_page(store, "", name + LAST_CHARACTER)
    return all(info.name > name for info in behind)


def _list_page(store: Store, prefix: str, start_after: str) -> Page:
    objects = (info for page in store.list(prefix, start_after) for info in page)
    return list(islice(objects, PAGE_SIZE))


def _estimate(space: KeySpace, source: Source) -> tuple[Census, float]:
    """The mean of several descents, and its relative error at 95% confidence."""
    descents: list[list[Part]] = []
    deadline = monotonic() + TIMEOUT_S
    while True:
        descents.append([(w, _choose(page, source)) for w, page in space.descend()])
        totals = [sum(weight * len(page) for weight, page in parts) for parts in descents]
        if len(totals) < MIN_DESCENTS:
            continue
        error = 2 * stdev(totals) / len(totals) ** 0.5 / mean(totals) if any(totals) else 0.0
        is_over = monotonic() > deadline or len(totals) == MAX_DESCENTS
        if error < WANTED_ERROR or is_over:
            break
    census = Census()
    for parts in descents:
        for weight, page in parts:
            census.add(page, weight / len(descents))
    return census, max(error, MIN_ERROR)


def _open_one(kind: Kind, store: Store, extensions: tuple[str, ...], max_objects: int) -> None:
    """Let the archive of middle size, of those drawn, stand for its kind."""
    infos = [info for info in kind.sample if info.size > 0]
    if not infos:
        kind.num_images, kind.sample = kind.num_objects, []  # an archive of nothing is one row
        return
    middle = sorted(infos, key=lambda info: info.size)[len(infos) // 2]
    archive = FolderSource(store, extensions, only=middle.name)
    deadline = monotonic() + TIMEOUT_S
    kind.sample = []
    num_members = num_bytes = 0
    for member in archive.list():
        num_members += 1
        num_bytes += max(member.size, 0)
        if len(kind.sample) < SAMPLE_SIZE:
            kind.sample.append(member)
        if num_members == max_objects or monotonic() > deadline:
            # not all of them: as many as their sizes let there be
            num_members = max(num_members, round(num_members * middle.size / (num_bytes or 1)))
            break
    kind.num_images = num_members * kind.size_bytes / middle.size
