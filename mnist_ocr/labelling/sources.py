"""A source: what is labelled, wherever it lies.

source = open_source("s3://scans/2026-*/shard-*.tar")     # inputs.py
objects = list(source.list())          # images, and members of archives, in a fixed order
contents = source.read_many(objects)   # on any machine, without the listing
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from mnist_ocr.labelling.archives import archive_of, find_format, list_archive
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.members import ContentOrError
from mnist_ocr.labelling.reading import ObjectReader
from mnist_ocr.storage import ObjectInfo, Store
from mnist_ocr.traffic import Traffic

Entry = tuple[ObjectInfo, bool]
"""What a listing comes across, and whether it is to be labelled."""


class Source(ABC):
    """The images of a labelling job."""

    def __init__(self, uri: str, extensions: Sequence[str] = ()) -> None:
        self.uri = uri
        self.extensions = tuple(extensions)
        self._endings = tuple(extension.lower() for extension in extensions)
        self._reader = ObjectReader(self.locate)

    @abstractmethod
    def uri_of(self, name: str) -> str:
        """The absolute address of an object or member; of "" what all of them begin with."""

    @property
    def max_lanes(self) -> int:
        """Parts of the listing that are worth listing at once."""
        return 1

    def list(self, after: ObjectInfo | None = None) -> Iterator[ObjectInfo]:
        """All objects and members, in a fixed order; those behind one of them.

        With extensions only those that end so. What has no name of its own, such as a row of a
        Parquet file, goes by the archive's; an archive that cannot be listed is always an entry.

        Raises:
            UsageError: there is no such input, or it may not be listed.
            StorageUnreachableError: the store does not answer.
        """
        return (info for info, is_chosen in self.scan(after) if is_chosen)

    @abstractmethod
    def scan(self, after: ObjectInfo | None = None, until: str = "") -> Iterator[Entry]:
        """What `list` comes across, chosen or not; an archive that is whole once more at its end.

        Args:
            after: An entry: only those behind it.
            until: The last name, with the members if it is an archive; "" for the end.
        """

    def find_split(self, after: ObjectInfo, until: str) -> str:
        """A name between two, to list both sides of at once; "" where there is none."""
        return ""

    @abstractmethod
    def locate(self, name: str) -> tuple[Store, str]:
        """The store of an object, and its name there."""

    @abstractmethod
    def holds(self, uri: str) -> bool:
        """Whether files written into the folder `uri` may become part of the input."""

    def check_is_here(self) -> None:
        """Make sure that this machine has the input at all, so that rows do not say `missing`."""
        return

    @property
    @abstractmethod
    def _used_stores(self) -> Iterable[Store]:
        """Those that contents have been read from."""

    def take_traffic(self) -> Traffic:
        """What reading has come to since this was last called."""
        traffic = Traffic()
        for store in self._used_stores:
            traffic.add(store.take_traffic())
        return traffic

    def read_many(self, objects: Sequence[ObjectInfo]) -> Iterator[ContentOrError]:
        """Each one's content, or the reason why not, in order."""
        return self._reader.read_many(objects)

    def _is_chosen(self, name: str) -> bool:
        return not self._endings or name.lower().endswith(self._endings)

    def _expand(self, info: ObjectInfo, line: str = "") -> Iterator[Entry]:
        """An object itself, or an archive's members."""
        form = find_format(info.name)
        itself = info._replace(etag=Locator(info.etag, "", line).encode()) if line else info
        if not form or not (form.has_names or self._is_chosen(info.name)):
            yield itself, not form and self._is_chosen(info.name)
            return
        store, name = self.locate(info.name)
        for entry in list_archive(store, name, info, line):
            is_nameless = not form.has_names or entry.name == info.name
            yield entry, is_nameless or self._is_chosen(entry.name)
        if entry.name != info.name:  # else it says what is wrong with the rest
            yield itself, False

    def _expand_after(self, after: ObjectInfo, info: ObjectInfo | None) -> Iterator[Entry]:
        """What comes behind a member in its archive, as it is now."""
        line = Locator.parse(after.etag).line
        rest = self._expand(info, line) if info else iter(())
        if any(entry == after for entry, _ in rest):  # its etag, too
            yield from rest
            return
        status, what = ("changed", "has changed") if info else ("missing", "is gone")
        error = f"The archive {what} since its first members were listed; the others were not."
        name = archive_of(after.name)
        yield ObjectInfo(name, 0, Locator("", "", line, status, error).encode()), True
