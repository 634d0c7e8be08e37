"""What an input holds, for `plan`: counted as far as that is quick, else estimated.

A folder's archives are not opened while it is listed: a thousand of them would take hours. One of
each kind is, and stands for the others, by size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import mean, stdev
from time import monotonic, process_time
from typing import Any

from mnist_ocr.labelling.archives import archive_of, find_format, open_archive
from mnist_ocr.labelling.census import SAMPLE_SIZE, Census, Kind, limit_bytes, merge_rare
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.key_space import LAST_CHARACTER, KeySpace, Part
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.parquet_archive import open_parquet
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

PROBED_BYTES = 64 * 1024**2
"""Of what a compressed archive holds, to find out how well it compresses."""


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
    """Seconds of a core for listing all of it, with the members of archives."""

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
    store = source.store if isinstance(source, FolderSource) and is_folder else None
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
                list_core_s += _open_one(kind, store, source.extensions, max_objects)
    for kind in kinds:
        kind.sample = limit_bytes(kind.sample)
        kind.num_in_stream = _count_in_stream(kind, source)
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


def _open_one(kind: Kind, store: Store, extensions: tuple[str, ...], max_objects: int) -> float:
    """Let the archive of middle size, of those drawn that can be opened, stand for its kind.

    Returns:
        Seconds of a core for listing all archives of the kind.
    """
    infos = sorted((i for i in kind.sample if i.size > 0), key=lambda info: info.size)
    if not infos:
        kind.num_images, kind.sample = kind.num_objects, []  # an archive of nothing is one row
        return 0.0
    middle = infos[len(infos) // 2]
    deadline = monotonic() + TIMEOUT_S
    most = max_objects if kind.is_listed_by_reading else None  # a directory is at hand as a whole
    for info in sorted(infos, key=lambda info: abs(info.size - middle.size)):
        archive = FolderSource(store, extensions, only=info.name)
        cpu_started = process_time()
        members, num_listed, last = _list_archive(archive, most, deadline)
        core_s = process_time() - cpu_started
        is_damaged = [member.name for member in members] == [info.name]
        if not is_damaged or monotonic() > deadline:
            break
    num_alike = kind.size_bytes / info.size
    if last and last.name != info.name:  # there may be more
        num_alike /= _share_before(last, info, store)
    kind.sample, kind.num_images = members, num_listed * num_alike
    return core_s * num_alike


def _list_archive(
    archive: Source, max_members: int | None, deadline: float
) -> tuple[list[ObjectInfo], int, ObjectInfo | None]:
    """The first members, how many were listed, and the last one of these if there may be more."""
    members: list[ObjectInfo] = []
    num_listed = 0
    for num_seen, (member, is_chosen) in enumerate(archive.scan(), start=1):
        num_listed += is_chosen
        if is_chosen and len(members) < SAMPLE_SIZE:
            members.append(member)
        if num_seen == max_members or monotonic() > deadline:
            return members, num_listed, member
    return members, num_listed, None


def _share_before(member: ObjectInfo, info: ObjectInfo, store: Store) -> float:
    """How much of an archive lies before a member's end."""
    form = find_format(info.name)
    assert form
    position = Locator.parse(member.etag).position.partition("/")[0]
    file: Any = open_archive(store.read_range, info)
    with file:
        if not form.locate:
            num_rows: int = open_parquet(file).metadata.num_rows
            return (int(position) + 1) / num_rows
        _, end = form.locate(position, member.size)
        if not form.is_gzipped:
            return end / info.size
        file.seek(min(end, PROBED_BYTES))
        ratio: float = file.fileobj.tell() / file.tell()
        return end * ratio / info.size


def _count_in_stream(kind: Kind, source: Source) -> float:
    if not kind.is_archive or not kind.sample:
        return 0.0
    member = kind.sample[0]
    locator = Locator.parse(member.etag)
    form = find_format(archive_of(member.name)) if locator.position else None
    if not form or (form.locate and not form.is_gzipped):
        return 0.0
    if form.is_gzipped:
        return kind.num_images / kind.num_objects
    store, name = source.locate(archive_of(member.name))
    info = ObjectInfo(name, int(locator.position.rpartition("/")[2]), locator.etag)
    with open_archive(store.read_range, info) as file:
        footer = open_parquet(file).metadata
        num_rows: int = footer.num_rows
        return num_rows / float(footer.num_row_groups)
