"""Where the images are: a folder, a pattern, an archive, or a list of URIs (uri_lists.py).

    source = open_source("s3://scans/2026-*/shard-*.tar")
    objects = list(source.list())          # images, and members of archives, in a fixed order
    contents = source.read_many(objects)   # on any machine, without the listing

A source is a folder whose archives are folders, too.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from socket import gethostname

from fsspec.utils import glob_translate

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.archives import archive_of, find_format, list_archive
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.members import ContentOrError
from mnist_ocr.labelling.reading import ObjectReader
from mnist_ocr.storage import ObjectInfo, Store, is_local, open_store, resolve_uri

_WILDCARD = re.compile(r"[*?\[]")


class Source(ABC):
    """The images of a labelling job."""

    def __init__(self, uri: str, extensions: Sequence[str] = ()) -> None:
        self.uri = uri
        self.extensions = tuple(extensions)
        self._endings = tuple(extension.lower() for extension in extensions)
        self._reader = ObjectReader(self._locate)

    @abstractmethod
    def uri_of(self, name: str) -> str:
        """The absolute address of an object or member; of "" what all of them begin with."""

    @abstractmethod
    def list(self, after: ObjectInfo | None = None) -> Iterator[ObjectInfo]:
        """All objects and members, in a fixed order; those behind one of them.

        With extensions only those that end so. What has no name of its own, such as a row of a
        Parquet file, goes by the archive's; an archive that cannot be listed is always an entry.

        Raises:
            UsageError: there is no such input, or it may not be listed.
            StorageUnreachableError: the store does not answer.
        """

    @abstractmethod
    def _locate(self, name: str) -> tuple[Store, str]:
        """The store of an object, and its name there."""

    @abstractmethod
    def holds(self, uri: str) -> bool:
        """Whether files written into the folder `uri` may become part of the input."""

    def check_is_here(self) -> None:
        """Make sure that this machine has the input at all, so that rows do not say `missing`."""
        return

    @property
    def num_requests(self) -> int:
        """Requests that contents have taken."""
        return self._reader.num_requests

    def read_many(self, objects: Sequence[ObjectInfo]) -> Iterator[ContentOrError]:
        """Each one's content, or the reason why not, in order."""
        return self._reader.read_many(objects)

    def _is_chosen(self, name: str) -> bool:
        return not self._endings or name.lower().endswith(self._endings)

    def _expand(self, info: ObjectInfo, line: str = "") -> Iterator[ObjectInfo]:
        """An object itself, or the members of an archive, as far as they are chosen."""
        form = find_format(info.name)
        if not form:
            if self._is_chosen(info.name):
                yield info
            return
        if not form.has_names and not self._is_chosen(info.name):
            return
        store, name = self._locate(info.name)
        for entry in list_archive(store, name, info, line):
            if not form.has_names or entry.name == info.name or self._is_chosen(entry.name):
                yield entry

    def _expand_after(self, after: ObjectInfo, info: ObjectInfo | None) -> Iterator[ObjectInfo]:
        """What comes behind a member in its archive, as it is now."""
        old = Locator.parse(after.etag)
        if info and info.etag == old.etag:
            rest = self._expand(info, old.line)
            if any(entry == after for entry in rest):
                yield from rest
                return
        status, what = ("changed", "has changed") if info else ("missing", "is gone")
        error = f"The archive {what} since its first members were listed; the others were not."
        name = archive_of(after.name)
        yield ObjectInfo(name, 0, Locator("", "", old.line, status, error).encode())


class FolderSource(Source):
    """A folder of a store, or a part of it.

    Args:
        store: The folder.
        extensions: Only objects that end so.
        pattern: Only names that match, with `*`, `?`, `[...]` and `**` as in fsspec.
        only: The name of an archive: only this one.
    """

    def __init__(
        self,
        store: Store,
        extensions: Sequence[str] = (),
        *,
        pattern: str | None = None,
        only: str | None = None,
    ) -> None:
        part = pattern or only
        super().__init__(store.uri_of(part) if part else store.uri, extensions)
        self._store = store
        self._only = only
        self._regex = re.compile(glob_translate(pattern)) if pattern else None
        self._prefix = _WILDCARD.split(pattern, maxsplit=1)[0] if pattern else ""

    def uri_of(self, name: str) -> str:
        """The absolute address."""
        return self._store.uri_of(name)

    def _locate(self, name: str) -> tuple[Store, str]:
        return self._store, name

    def list(self, after: ObjectInfo | None = None) -> Iterator[ObjectInfo]:
        """In the order of the names; members in that of their archive."""
        start_after = after.name if after else ""
        if after and Locator.parse(after.etag).position:
            start_after = archive_of(after.name)
            yield from self._expand_after(after, self._store.find(start_after))
        for info in self._objects(start_after):
            yield from self._expand(info)

    def _objects(self, start_after: str) -> Iterator[ObjectInfo]:
        if self._only is not None:
            info = self._store.find(self._only)
            if info and not start_after:
                yield info
            return
        for page in self._store.list(self._prefix, start_after):
            for info in page:
                if not self._regex or self._regex.match(info.name):
                    yield info

    def holds(self, uri: str) -> bool:
        """Anything below the folder, or what the pattern may match."""
        root = f"{self._store.uri}/"
        if self._only is not None or not f"{uri}/".startswith(root):
            return False
        folder = f"{uri}/"[len(root) :]
        names = ("_job.json", "part-00000000.parquet", "_manifest/00000000.arrow")
        return not self._regex or any(self._regex.match(folder + name) for name in names)

    def check_is_here(self) -> None:
        """A local folder must be mounted."""
        uri = self.uri if self._only is not None else self._store.uri
        if is_local(uri) and not Path(uri).exists():
            raise UsageError(
                f"There is no {uri} on {gethostname()}. Mount it there, or pass an s3:// URI; then "
                "run the same command again."
            )


def open_source(uri: str, extensions: Sequence[str] = ()) -> Source:
    """The source at a URI: a folder, unless it has a wildcard or an archive's or a list's name.

    Raises:
        UsageError: the URI makes no sense, or there are no credentials for it.
        StorageUnreachableError: the store does not answer.
    """
    resolved = resolve_uri(uri)
    if is_local(resolved) and Path(resolved).is_dir():
        return FolderSource(open_store(resolved), extensions)
    if wildcard := _WILDCARD.search(resolved):
        root = resolved[: resolved.rfind("/", 0, wildcard.start())]
        if root.endswith((":", ":/")):
            raise UsageError(f"No wildcard can stand for a bucket: {uri}. Name the bucket.")
        pattern = resolved[len(root) + 1 :] + ("/**" if uri.endswith("/") else "")
        return FolderSource(open_store(root or "/"), extensions, pattern=pattern)
    parent, _, name = resolved.rpartition("/")
    if find_format(name):
        store = open_store(parent or "/")
        if store.find(name):
            return FolderSource(store, extensions, only=name)
    return FolderSource(open_store(resolved), extensions)
