"""What a URI is: a local folder, `s3://bucket/prefix`, or anything fsspec knows.

    store = open_store("s3://scans/2026")
    for page in store.list():             # lexicographic order, a page at a time
        store.read(page[0].name)          # one request
    store.write("part-0.parquet", data)   # atomic: readers see all of it or nothing

A store is a folder: `name` is relative to it, `store.uri_of(name)` absolute. Listings are in the
order of the UTF-8 names everywhere, so that a bucket and its copy on disk list alike.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from mnist_ocr.ahead import Call, call_in_blocks
from mnist_ocr.answers import MAX_SHORT_ANSWERS
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.redaction import redact_uri
from mnist_ocr.traffic import Traffic, TrafficMeter

PAGE_SIZE = 1000
"""Objects in a page of a listing: what S3 returns at most."""


UNKNOWN_SIZE = -1
"""Size of an object that nobody has asked the store for yet."""

UNKNOWN_BYTES = 4 * 1024**2
"""What such an object is taken for: 64 are read at once, which are 640 MB of pages of 10 MB."""


BROKEN_LINK = "missing"
"""Etag of a file that its folder names and that is not there."""


class ObjectInfo(NamedTuple):
    """An object as its listing saw it: `size` in bytes; `etag` changes when the content does."""

    name: str
    size: int
    etag: str


Page = list[ObjectInfo]
"""A part of a listing, in order."""


class ByteRange(NamedTuple):
    """The `length` bytes of an object from `start` on, if it still has this `etag`."""

    name: str
    start: int
    length: int
    etag: str


T = TypeVar("T")

Read = Call[bytes | ObjectError]


class Store(ABC):
    """A folder of objects."""

    max_lanes: int = 1
    """Parts of a listing that are worth listing at once: more where each page is a request."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._meter = TrafficMeter()

    def take_traffic(self) -> Traffic:
        """What requests have come to since this was last called."""
        return self._meter.take()

    def uri_of(self, name: str) -> str:
        """The absolute address of an object."""
        return f"{self.uri}/{name}"

    @abstractmethod
    def list(
        self, prefix: str = "", start_after: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[Page]:
        """Pages of the objects whose name starts with `prefix`, recursively, in order.

        Args:
            prefix: A folder, or the beginning of names.
            start_after: Any name: only those behind it; "" for all.
            page_size: Most objects in a page.

        Raises:
            UsageError: the folder does not exist, or may not be listed.
            StorageUnreachableError: the store does not answer.
        """

    def find(self, name: str) -> ObjectInfo | None:
        """An object by its name, or None where there is no such object; raises what `list` does."""
        first = next((info for page in self.list(name, page_size=1) for info in page), None)
        return first if first and first.name == name else None

    @abstractmethod
    def read(
        self, name: str, etag: str = "", max_bytes: int | None = None, size: int = UNKNOWN_SIZE
    ) -> bytes:
        """An object's content, in one request.

        Args:
            name: Of the object.
            etag: As it was listed; "" for any.
            max_bytes: Refuse a larger one.
            size: As it was listed: an answer of another length is none.

        Raises:
            ObjectError: the object is missing, forbidden, throttled, larger than `max_bytes` or,
                where `etag` is given, changed since it was listed.
            UsageError: the credentials are not accepted.
            StorageUnreachableError: the store does not answer.
        """

    def read_as(self, name: str, parse: Callable[[bytes], T]) -> T:
        """An object's content, as `parse` makes it: for objects of an unknown size.

        A proxy may have cut the answer, so that one that `parse` refuses is asked for again.

        Raises:
            ValueError: as `parse` does, at last.
            ObjectError: as `read` does, which see for the rest.
        """
        for _ in range(MAX_SHORT_ANSWERS - 1):
            data = self.read(name)
            with contextlib.suppress(ValueError):
                return parse(data)
        return parse(self.read(name))

    @abstractmethod
    def read_range(self, wanted: ByteRange) -> bytes:
        """A part of an object, in one request: fewer bytes only where the object ends.

        Raises as `read` does.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write an object atomically; one of that name is replaced.

        Raises:
            UsageError: the folder cannot be written.
            StorageUnreachableError: the store does not answer.
        """

    def create(self, name: str, data: bytes) -> None:
        """Write an object that is not there; the same content may be.

        Where a store has no conditional PUT, two that write at the same moment are not told apart.

        Raises:
            FileExistsError: another one is.
            Else as `write`.
        """
        if self.find(name):
            self._check_same(name, data)
        else:
            self.write(name, data)

    def _check_same(self, name: str, data: bytes) -> None:
        if self.read(name) != data:
            raise FileExistsError(f"{self.uri_of(name)} is there already.")

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; one that is not there, or may not be deleted, is let be."""

    def read_many(
        self, objects: Sequence[ObjectInfo], max_bytes: int | None = None
    ) -> Iterator[bytes | ObjectError]:
        """Each object's content, or the reason why not, in order."""
        return self._read_ahead(
            (
                info.size if info.size >= 0 else UNKNOWN_BYTES,
                partial(_try, self.read, info.name, info.etag, max_bytes, info.size),
            )
            for info in objects
        )

    def read_ranges(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | ObjectError]:
        """Each part's bytes, or the reason why not, in order."""
        return self._read_ahead(
            (wanted.length, partial(_try, self.read_range, wanted)) for wanted in ranges
        )

    def _read_ahead(self, reads: Iterable[Read]) -> Iterator[bytes | ObjectError]:
        """In order, as many at once as pay."""
        return call_in_blocks(reads)


def _try(read: Callable[..., bytes], *arguments: object) -> bytes | ObjectError:
    try:
        return read(*arguments)
    except ObjectError as error:
        return error


def resolve_uri(uri: str) -> str:
    """The one spelling of a folder's address: absolute if local, without a trailing slash.

    Raises:
        UsageError: it makes no sense, or holds a secret.
    """
    if not uri:
        raise UsageError("The URI is empty. Pass a folder or an s3:// URI.")
    if uri.encode(errors="ignore").decode() != uri:
        raise UsageError(f"{uri!r} is not UTF-8. Rename the folder.")
    protocol, separator, rest = uri.removeprefix("file://").partition("://")
    if not separator:
        check_no_nul(protocol)
        path = os.path.expanduser(protocol)  # noqa: PTH111 - "~1.png" may be a file's name
        return os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links
    check_no_secret(uri)
    return f"{protocol}://{rest.rstrip('/')}"


def check_no_nul(path: str) -> None:
    """Refuse what Python's functions of files raise a bare ValueError for.

    Raises:
        UsageError: it has a NUL in it.
    """
    if "\0" in path:
        raise UsageError(f"{path!r} is no path: it has a NUL in it.")


def check_no_secret(uri: str) -> None:
    """Refuse a URI that could not be written down.

    Raises:
        UsageError: it has a password, a token or a signature in it.
    """
    if "://" in uri and redact_uri(uri) != uri:
        raise UsageError(
            f"There is a password, token or signature in {uri}: process lists, logs and job "
            "records would show it. Leave it out and set AWS_PROFILE or fsspec's FSSPEC_* "
            "variables; signed https:// URLs may be lines of a list."
        )


def is_local(uri: str) -> bool:
    """Whether a resolved URI is a path of this machine's file system."""
    return "://" not in uri


def open_store(uri: str, *, anonymous: bool = False) -> Store:
    """The store at a URI. Does no request.

    Args:
        uri: Of a folder.
        anonymous: Of S3: sign nothing, the bucket is public.

    Raises:
        UsageError: the URI makes no sense, or there are no credentials for it.
    """
    uri = resolve_uri(uri)
    if is_local(uri):
        from mnist_ocr.local_store import LocalStore

        return LocalStore(uri)
    if uri.startswith("s3://"):
        from mnist_ocr.s3 import S3Store

        return S3Store(uri, anonymous=anonymous)
    from mnist_ocr.fsspec_store import FsspecStore

    return FsspecStore(uri)
