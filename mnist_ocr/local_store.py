"""A folder of the local (or network) file system."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

from mnist_ocr.answers import changed, check_size
from mnist_ocr.crash import crash_point
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import (
    BROKEN_LINK,
    PAGE_SIZE,
    UNKNOWN_SIZE,
    ByteRange,
    ObjectInfo,
    Page,
    Store,
)


class LocalStore(Store):
    """A folder of the local (or network) file system; symbolic links are followed."""

    def list(
        self, prefix: str = "", start_after: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[Page]:
        """Pages of files, recursively; an object's etag is its time of change and size."""
        root = Path(self.uri)
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise UsageError(f"The folder {self.uri} {what}. Pass an existing folder or s3:// URI.")
        folder = prefix[: prefix.rfind("/") + 1]
        for page in self._walk(folder, frozenset(), page_size):
            if prefix != folder or start_after:
                page = [i for i in page if i.name.startswith(prefix) and i.name > start_after]
            if page:
                yield page

    def _walk(
        self, folder: str, ancestors: frozenset[tuple[int, int]], page_size: int
    ) -> Iterator[Page]:
        """Pages of the files below `folder`, which is empty or ends with a slash."""
        path = os.path.join(self.uri, folder)  # noqa: PTH118 - a Path per file is slow
        try:
            here = os.stat(path)  # noqa: PTH116
            with os.scandir(path) as scan:
                # code points sort as UTF-8 does, and with its slash "b/" comes after "b.png", as
                # the key "b/x.png" does in a bucket
                names = sorted(entry.name + "/" * _is_folder(entry) for entry in scan)
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
        for name in names:
            if name.endswith("/"):
                yield page
                yield from self._walk(folder + name, ancestors | {inode}, page_size)
                page = []
                continue
            try:
                status = os.stat(path + name)  # noqa: PTH116
            except OSError:  # a broken link, or gone since: listed, so that it gets its row
                page.append(ObjectInfo(folder + name, 0, BROKEN_LINK))
                continue
            if stat.S_ISREG(status.st_mode):  # a pipe or a socket holds no image, and would block
                page.append(ObjectInfo(folder + name, status.st_size, _etag(status)))
            if len(page) == page_size:
                yield page
                page = []
        yield page

    def find(self, name: str) -> ObjectInfo | None:
        """A file by its name."""
        try:
            status = Path(f"{self.uri}/{name}").stat()
        except OSError:
            return None
        is_file = stat.S_ISREG(status.st_mode)
        return ObjectInfo(name, status.st_size, _etag(status)) if is_file else None

    def read(
        self, name: str, etag: str = "", max_bytes: int | None = None, size: int = UNKNOWN_SIZE
    ) -> bytes:
        """A file's content; its etag holds its size."""
        return self._read(name, etag, 0, None, max_bytes)

    def read_range(self, wanted: ByteRange) -> bytes:
        """A part of a file."""
        return self._read(wanted.name, wanted.etag, wanted.start, wanted.length, None)

    def _read(
        self, name: str, etag: str, start: int, length: int | None, max_bytes: int | None
    ) -> bytes:
        path = f"{self.uri}/{name}"
        try:
            # a list may name a pipe, whose opening would wait for a writer
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ObjectError("unreadable", f"{path} is no regular file.")
                if etag and _etag(status) != etag:
                    raise changed(path)
                check_size(path, status.st_size, max_bytes)
                if start:
                    os.lseek(descriptor, start, os.SEEK_SET)
                left = max(status.st_size - start, 0)
                left = left if length is None else min(left, length)
                data = os.read(descriptor, left)
                while len(data) < left and (more := os.read(descriptor, left - len(data))):
                    data += more
                self._meter.count_answer(len(data))
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
        self._write(name, data, Path.replace)

    def create(self, name: str, data: bytes) -> None:
        """The same, but with a link, of which one of two that try succeeds."""
        try:
            self._write(name, data, _link)
        except _TakenError:
            self._check_same(name, data)

    def _write(self, name: str, data: bytes, move: Callable[[Path, Path], object]) -> None:
        target = Path(self.uri, name)
        temporary = target.with_name(f".{target.name}.{token_hex(8)}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:  # never through a link that another has put there
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            crash_point("temporary-written")
            move(temporary, target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # makes the rename itself durable
            finally:
                os.close(folder)
        except OSError as error:
            raise UsageError(
                f"Cannot write {target}: {error.strerror}. Make room or pass another folder."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Unlink a file."""
        with contextlib.suppress(OSError):
            Path(self.uri, name).unlink()


class _TakenError(Exception):
    """A name is given to another file."""


def _link(temporary: Path, target: Path) -> None:
    """Give a file a name, if no other has it; the old one is deleted later.

    Raises:
        _TakenError: another has.
    """
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise _TakenError from error
    except OSError as error:  # a file system without links
        if target.exists():
            raise _TakenError from error
        temporary.replace(target)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False
