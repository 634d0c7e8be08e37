"""Objects on whatever else fsspec opens: `gs://`, `az://`, `hf://`, `memory://`, ..."""

import contextlib
from collections.abc import Iterable, Iterator
from itertools import islice
from time import perf_counter
from typing import Any

import fsspec

from mnist_ocr.answers import check_size, read_whole
from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.storage import (
    PAGE_SIZE,
    UNKNOWN_SIZE,
    ByteRange,
    ObjectInfo,
    Page,
    Read,
    Store,
)


class FsspecStore(Store):
    """A folder on any other file system that fsspec opens (`gs://`, `az://`, `memory://`, ...).

    The slow path: the listing is held in memory, and an object takes two requests or more.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        try:
            self._filesystem, self._root = fsspec.url_to_fs(uri)
        except ValueError as error:
            raise UsageError(
                f"Unknown protocol in {uri}: {error}. Pass a folder or an s3:// URI."
            ) from error
        except ImportError as error:
            raise UsageError(f"Cannot open {uri}: {error}") from error
        except Exception as error:
            raise self._failed("open", error) from None

    def _failed(self, verb: str, error: Exception) -> StorageUnreachableError:
        """Each file system has errors of its own, for credentials and network alike.

        They quote signed URLs, and are therefore not raised along (`from None`).
        """
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(".")
        return StorageUnreachableError(
            f"Cannot {verb} {self.uri}: {reason}. Check its credentials and the network."
        )

    def list(
        self, prefix: str = "", start_after: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[Page]:
        """Pages of objects, from one complete listing."""
        try:
            self._filesystem.invalidate_cache()  # others write, too
            folder = prefix[: prefix.rfind("/") + 1]
            found = self._filesystem.find(f"{self._root}/{folder}".rstrip("/"), detail=True)
        except FileNotFoundError as error:
            if not folder:
                raise self._failed("list", error) from None
            found = {}
        except Exception as error:
            raise self._failed("list", error) from None
        infos = sorted(
            (
                _describe(path[len(self._root) :].lstrip("/"), detail)
                for path, detail in found.items()
            ),
            key=lambda info: info.name.encode(),
        )
        after = start_after.encode()
        chosen = (i for i in infos if i.name.startswith(prefix) and i.name.encode() > after)
        while page := list(islice(chosen, page_size)):
            yield page

    def find(self, name: str) -> ObjectInfo | None:
        """An object by its name, without a listing, which some file systems do not have."""
        try:
            detail = self._filesystem.info(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("find", error) from None
        return _describe(name, detail) if detail.get("type") == "file" else None

    def read(
        self, name: str, etag: str = "", max_bytes: int | None = None, size: int = UNKNOWN_SIZE
    ) -> bytes:
        """An object's content; not every file system has etags: only its size is compared."""

        def read() -> bytes:
            data = self._read(name, 0, None if max_bytes is None else max_bytes + 1)
            check_size(self.uri_of(name), len(data), max_bytes)
            return data

        return read_whole(read, self.uri_of(name), "", size)

    def read_range(self, wanted: ByteRange) -> bytes:
        """A part of an object, whatever its etag."""
        return self._read(wanted.name, wanted.start, wanted.start + wanted.length)

    def _read(self, name: str, start: int, end: int | None) -> bytes:
        try:
            path = f"{self._root}/{name}"
            sent = perf_counter()
            data = bytes(self._filesystem.cat_file(path, start or None, end))
            self._meter.count_answer(len(data), perf_counter() - sent)
            return data
        except FileNotFoundError:
            raise ObjectError("missing", f"There is no {self.uri_of(name)} (any more).") from None
        except PermissionError:
            raise ObjectError("forbidden", f"No permission to read {self.uri_of(name)}.") from None
        except Exception as error:
            raise self._explain(name, error) from None

    def _explain(self, name: str, error: Exception) -> Exception:
        """HTTP tells what is wrong with an object from what is wrong with its server."""
        status = getattr(error, "status", None)
        if not isinstance(status, int) or not 400 <= status < 500 or status == 429:
            return self._failed("read", error)
        kind = {401: "forbidden", 403: "forbidden", 410: "missing"}.get(status, "unreadable")
        return ObjectError(kind, f"The server answers {status} for {self.uri_of(name)}.")

    def _read_ahead(self, reads: Iterable[Read]) -> Iterator[bytes | ObjectError]:
        """One after the other, unless the file system is made for more (FTP has one connection)."""
        if self._filesystem.async_impl:
            return super()._read_ahead(reads)
        return (read() for _, read in reads)

    def write(self, name: str, data: bytes) -> None:
        """One put; atomic where the file system's own put is."""
        path = f"{self._root}/{name}"
        try:
            self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._filesystem.pipe_file(path, data)
        except Exception as error:
            raise self._failed("write", error) from None

    def delete(self, name: str) -> None:
        """Remove a file."""
        with contextlib.suppress(Exception):
            self._filesystem.rm_file(f"{self._root}/{name}")


def _describe(name: str, detail: dict[str, Any]) -> ObjectInfo:
    etag = detail.get("etag") or detail.get("ETag") or detail.get("mtime") or ""
    size = detail.get("size")
    return ObjectInfo(name, UNKNOWN_SIZE if size is None else int(size), str(etag))
