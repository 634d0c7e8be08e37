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
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mnist_ocr.errors import ObjectError, UsageError

PAGE_SIZE = 1000
"""Objects in a page of a listing: what S3 returns at most."""


class ObjectInfo(NamedTuple):
    """An object as its listing saw it: `size` in bytes; `etag` changes when the content does."""

    name: str
    size: int
    etag: str


Page = list[ObjectInfo]
"""A part of a listing, in order."""


class Store(ABC):
    """A folder of objects."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def uri_of(self, name: str) -> str:
        """The absolute address of an object."""
        return f"{self.uri}/{name}"

    @abstractmethod
    def list(self, prefix: str = "", start_after: str = "") -> Iterator[Page]:
        """Pages of the objects whose name starts with `prefix`, recursively, in order.

        Raises:
            UsageError: the folder does not exist, or may not be listed.
            StorageUnreachableError: the store does not answer.
        """

    @abstractmethod
    def read(self, name: str, etag: str = "") -> bytes:
        """An object's content, in one request.

        Raises:
            ObjectError: the object is missing, forbidden, throttled or, where `etag` is given,
                changed since it was listed.
            UsageError: the credentials are not accepted.
            StorageUnreachableError: the store does not answer.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write an object atomically; one of that name is replaced.

        Raises:
            UsageError: the folder cannot be written.
            StorageUnreachableError: the store does not answer.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; one that is not there, or may not be deleted, is let be."""

    def read_many(self, objects: Sequence[ObjectInfo]) -> Iterator[bytes | ObjectError]:
        """Each object's content, or the reason why not, in order."""
        return map(self._read_or_error, objects)

    def _read_or_error(self, info: ObjectInfo) -> bytes | ObjectError:
        try:
            return self.read(info.name, info.etag)
        except ObjectError as error:
            return error


class LocalStore(Store):
    """A folder of the local (or network) file system; symbolic links are followed."""

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[Page]:
        """Pages of files, recursively; an object's etag is its time of change and size."""
        root = Path(self.uri)
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise UsageError(f"The folder {self.uri} {what}. Pass an existing folder or s3:// URI.")
        folder = prefix[: prefix.rfind("/") + 1]
        for page in self._walk(folder, frozenset()):
            if prefix != folder or start_after:
                page = [i for i in page if i.name.startswith(prefix) and i.name > start_after]
            if page:
                yield page

    def _walk(self, folder: str, ancestors: frozenset[tuple[int, int]]) -> Iterator[Page]:
        """Pages of the files below `folder`, which is empty or ends with a slash."""
        path = os.path.join(self.uri, folder)  # noqa: PTH118 - a Path per file is slow
        try:
            here = os.stat(path)  # noqa: PTH116
            with os.scandir(path) as scan:
                # code points sort as UTF-8 does, and with its slash "b/" comes after "b.png", as
                # the key "b/x.png" does in a bucket
                entries = sorted((e.name + "/" * _is_folder(e), e) for e in scan)
        except FileNotFoundError:
            return  # no such prefix
        except OSError as error:
            raise UsageError(
                f"Cannot list the folder {path}: {error.strerror}. Give read access to it, or move "
                "it away."
            ) from error
        inode = (here.st_dev, here.st_ino)
        if inode in ancestors:
            return  # a symbolic link that leads back up
        page: Page = []
        for name, entry in entries:
            if name.endswith("/"):
                yield page
                yield from self._walk(folder + name, ancestors | {inode})
                page = []
                continue
            try:
                status = entry.stat()
            except OSError:  # a broken link, or gone since: listed, so that it gets its row
                page.append(ObjectInfo(folder + name, 0, "missing"))
                continue
            if stat.S_ISREG(status.st_mode):  # a pipe or a socket holds no image, and would block
                page.append(ObjectInfo(folder + name, status.st_size, _etag(status)))
            if len(page) == PAGE_SIZE:
                yield page
                page = []
        yield page

    def read(self, name: str, etag: str = "") -> bytes:
        """A file's content."""
        path = f"{self.uri}/{name}"
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                status = os.fstat(descriptor)
                if etag and _etag(status) != etag:
                    raise ObjectError("changed", f"{path} has changed since it was listed.")
                data = os.read(descriptor, status.st_size)
                while len(data) < status.st_size and (more := os.read(descriptor, 1 << 24)):
                    data += more
                return data
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectError("missing", f"There is no file {path} (any more).") from error
        except PermissionError as error:
            raise ObjectError("forbidden", f"No permission to read {path}.") from error
        except ObjectError:
            raise
        except OSError as error:
            raise ObjectError("unreadable", f"Reading {path} failed: {error.strerror}.") from error

    def write(self, name: str, data: bytes) -> None:
        """Write a temporary file beside the target, flush it to the disk, and rename it."""
        target = Path(self.uri, name)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # makes the rename itself durable
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise UsageError(
                f"Cannot write {target}: {error.strerror}. Make room or pass another folder."
            ) from error

    def delete(self, name: str) -> None:
        """Unlink a file."""
        with contextlib.suppress(OSError):
            Path(self.uri, name).unlink()


def resolve_uri(uri: str) -> str:
    """The one spelling of a folder's address: absolute if local, without a trailing slash."""
    if not uri:
        raise UsageError("The URI is empty. Pass a folder or an s3:// URI.")
    if uri.encode(errors="ignore").decode() != uri:
        raise UsageError(f"{uri!r} is not UTF-8. Rename the folder.")
    protocol, separator, rest = uri.removeprefix("file://").partition("://")
    if not separator:
        path = os.path.expanduser(protocol)  # noqa: PTH111 - "~1.png" may be a file's name
        return os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links
    return f"{protocol}://{rest.rstrip('/')}"


def is_local(uri: str) -> bool:
    """Whether a resolved URI is a path of this machine's file system."""
    return "://" not in uri


def open_store(uri: str) -> Store:
    """The store at a URI. Does no request.

    Raises:
        UsageError: the URI makes no sense, or there are no credentials for it.
    """
    uri = resolve_uri(uri)
    if is_local(uri):
        return LocalStore(uri)
    if uri.startswith("s3://"):
        from mnist_ocr.s3 import S3Store

        return S3Store(uri)
    from mnist_ocr.fsspec_store import FsspecStore

    return FsspecStore(uri)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False
