"""Contents of objects and of members of archives, in few requests.

Neighbouring members of an archive share a request. What cannot be searched is streamed: a
compressed tar from its start, a Parquet file by row groups.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, repeat
from typing import NamedTuple

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling import parquet_archive
from mnist_ocr.labelling.archives import (
    READ_ERRORS,
    Format,
    archive_of,
    explain_damage,
    find_format,
    open_archive,
)
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.members import ContentOrError
from mnist_ocr.storage import BROKEN_LINK, ByteRange, ObjectInfo, Store

MAX_SPAN_BYTES = 16 * 1024**2
"""Bytes that neighbouring members of an archive are read in at once."""

MAX_GAP_BYTES = 256 * 1024
"""Bytes between two of them that are read along: other members, headers."""


class _Entry(NamedTuple):
    """An object or member to be read."""

    name: str
    """Of the object, or of the member's archive, in its store."""
    size: int
    locator: Locator
    form: Format | None


_Read = Callable[[Store, list[_Entry]], Iterator[ContentOrError]]


@dataclass
class _Span:
    """Neighbouring members of one archive."""

    start: int
    end: int
    members: list[tuple[_Entry, int, int]] = field(default_factory=list)
    """With the start and end of each."""

    @property
    def range(self) -> ByteRange:
        """The bytes to ask for."""
        first, _, _ = self.members[0]
        return ByteRange(first.name, self.start, self.end - self.start, first.locator.etag)


class ObjectReader:
    """Reads what a source has listed.

    Args:
        find_store: The store of an object's name, and its name there.
    """

    def __init__(self, find_store: Callable[[str], tuple[Store, str]]) -> None:
        self._find_store = find_store

    def read_many(self, objects: Sequence[ObjectInfo]) -> Iterator[ContentOrError]:
        """Each one's content, or the reason why not, in order."""
        if not any("\t" in info.etag for info in objects):
            yield from self._read_folder(objects)
            return
        queues: dict[object, list[_Entry]] = {}
        readers: dict[object, Iterator[ContentOrError]] = {}
        order = []
        for info in objects:
            locator = Locator.parse(info.etag)
            known = _find_known_content(info, locator)
            if known is not None:
                order.append(iter([known]))
                continue
            read, store, entry = self._plan(info, locator)
            key = (read, store)
            if key not in queues:
                queues[key] = []
                readers[key] = read(store, queues[key])  # begins when all queues are full
            queues[key].append(entry)
            order.append(readers[key])
        yield from (next(reader) for reader in order)

    def _read_folder(self, objects: Sequence[ObjectInfo]) -> Iterator[ContentOrError]:
        """Objects of their own, in one store: planning each would take as long as reading it."""
        if not objects:
            return
        store, _ = self._find_store(objects[0].name)
        contents = store.read_many([info for info in objects if _is_worth_reading(info)], MAX_BYTES)
        for info in objects:
            known = None if _is_worth_reading(info) else _find_known_content(info, Locator())
            yield next(contents) if known is None else known

    def _plan(self, info: ObjectInfo, locator: Locator) -> tuple[_Read, Store, _Entry]:
        if not locator.position:
            store, name = self._find_store(info.name)
            return self._read_objects, store, _Entry(name, info.size, locator, None)
        store, name = self._find_store(archive_of(info.name))
        form = find_format(name)
        assert form
        is_streamed = form.is_gzipped or not form.locate
        read = self._read_streams if is_streamed else self._read_spans
        return read, store, _Entry(name, info.size, locator, form)

    def _read_objects(self, store: Store, entries: list[_Entry]) -> Iterator[ContentOrError]:
        infos = [ObjectInfo(entry.name, entry.size, entry.locator.etag) for entry in entries]
        yield from store.read_many(infos, MAX_BYTES)

    def _read_spans(self, store: Store, entries: list[_Entry]) -> Iterator[ContentOrError]:
        """Members that lie in an archive as they are, or compressed one by one."""
        spans = _merge(entries)
        chunks = store.read_ranges([span.range for span in spans])
        for span, chunk in zip(spans, chunks, strict=True):
            for entry, start, end in span.members:
                if isinstance(chunk, ObjectError):
                    yield chunk
                    continue
                assert entry.form
                data = chunk[start - span.start : end - span.start]
                position = entry.locator.position
                yield _extract(entry.form, data, position, entry.size, end - start)

    def _read_streams(self, store: Store, entries: list[_Entry]) -> Iterator[ContentOrError]:
        """Members of archives that have to be read from their start."""
        for archive in _by_archive(entries):
            num_read = 0
            reason = ObjectError("corrupt", "The archive ends before what its directory lists.")
            try:
                for content in self._read_stream(store, archive):
                    yield content
                    num_read += 1
            except READ_ERRORS as error:
                reason = explain_damage(error)
            yield from repeat(reason, len(archive) - num_read)

    def _read_stream(self, store: Store, entries: list[_Entry]) -> Iterator[ContentOrError]:
        name, _, locator, form = entries[0]
        positions = [entry.locator.position.rpartition("/") for entry in entries]
        info = ObjectInfo(name, int(positions[0][2]), locator.etag)
        assert form
        with open_archive(store.read_range, info) as file:
            if not form.locate:
                rows = [int(position) for position, _, _ in positions]
                yield from parquet_archive.read_rows(file, rows)
                return
            for (position, _, _), entry in zip(positions, entries, strict=True):
                start, end = form.locate(position, entry.size)
                file.seek(start)
                yield _extract(form, file.read(end - start), position, entry.size, end - start)


def _is_worth_reading(info: ObjectInfo) -> bool:
    """Whether its size lets it be an image; a broken link's is not known."""
    return info.size <= MAX_BYTES and (info.size != 0 or info.etag == BROKEN_LINK)


def _find_known_content(info: ObjectInfo, locator: Locator) -> ContentOrError | None:
    """What takes no request."""
    if locator.status:
        return ObjectError(locator.status, locator.error)
    if info.size > MAX_BYTES:
        error = f"{info.size:,} bytes; images may have up to {MAX_BYTES:,}."
        return ObjectError("too_large", error)
    return None if _is_worth_reading(info) else b""


def _by_archive(entries: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    # by line, too: an archive that a list names twice is read twice, each time in its order
    lines = groupby(entries, lambda entry: (entry.name, entry.locator.etag, entry.locator.line))
    for _, group in lines:
        yield list(group)


def _merge(entries: Iterable[_Entry]) -> list[_Span]:
    """Neighbours into one span each, up to `MAX_SPAN_BYTES`."""
    spans: list[_Span] = []
    for archive in _by_archive(entries):
        span = None
        for entry in archive:
            assert entry.form
            assert entry.form.locate
            start, end = entry.form.locate(entry.locator.position, entry.size)
            if (
                not span
                or not span.start <= start <= span.end + MAX_GAP_BYTES
                or end - span.start > MAX_SPAN_BYTES
            ):
                span = _Span(start, end)
                spans.append(span)
            span.end = max(span.end, end)
            span.members.append((entry, start, end))
    return spans


def _extract(form: Format, data: bytes, position: str, size: int, num_bytes: int) -> ContentOrError:
    if len(data) < num_bytes:
        return ObjectError("changed", "The archive ends before where this member was listed.")
    assert form.extract
    try:
        return form.extract(data, position, size)
    except ObjectError as error:
        return error
