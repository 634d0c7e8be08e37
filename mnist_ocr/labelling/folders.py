"""A folder as the input, or what a pattern chooses of it, or one archive in it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from socket import gethostname

from fsspec.utils import glob_translate

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.archives import archive_of
from mnist_ocr.labelling.key_ranges import find_split
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.sources import Entry, Source
from mnist_ocr.storage import ObjectInfo, Store, is_local

WILDCARD = re.compile(r"[*?\[]")
"""What makes a URI a pattern."""


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
        self.store = store
        self._only = only
        self._max_lanes = store.max_lanes if only is None else 1
        try:
            self._regex = re.compile(glob_translate(pattern)) if pattern else None
        except (ValueError, re.error) as error:
            raise UsageError(f"{store.uri_of(str(pattern))} is no pattern: {error}.") from error
        self._prefix = WILDCARD.split(pattern, maxsplit=1)[0] if pattern else ""

    def uri_of(self, name: str) -> str:
        """The absolute address."""
        return self.store.uri_of(name)

    def locate(self, name: str) -> tuple[Store, str]:
        """The folder, and the name itself."""
        return self.store, name

    @property
    def max_lanes(self) -> int:
        """As many as the store has use for; 1 once it has shown that it cannot be probed."""
        return self._max_lanes

    def scan(self, after: ObjectInfo | None = None, until: str = "") -> Iterator[Entry]:
        """In the order of the names; members in that of their archive."""
        start_after = _object_name(after) if after else ""
        if after and start_after != after.name:
            yield from self._expand_after(after, self.store.find(start_after))
        if self._only is not None:
            info = self.store.find(self._only)
            if info and not after:
                yield from self._expand(info)
            return
        for page in self.store.list(self._prefix, start_after):
            for info in page:
                if until and info.name > until:
                    return
                if after and info.name == start_after:
                    continue  # "", the marker of an S3 folder, which `start_after` cannot say
                if self._regex and not self._regex.match(info.name):
                    yield info, False
                else:
                    yield from self._expand(info)

    def find_split(self, after: ObjectInfo, until: str) -> str:
        """By probes, each a request for one name."""

        def find_next(name: str) -> str:
            if self._max_lanes == 1:
                return ""
            pages = self.store.list(self._prefix, name, page_size=1)
            found = next((info.name for page in pages for info in page), "")
            if found and found <= name:
                self._max_lanes = 1  # rclone's server starts anew behind what is no key
                return ""
            return found

        return find_split(find_next, self._prefix, _object_name(after), until)

    @property
    def _used_stores(self) -> Iterable[Store]:
        return (self.store,)

    def holds(self, uri: str) -> bool:
        """Anything below the folder, or what the pattern may match."""
        root = f"{self.store.uri}/"
        if self._only is not None or not f"{uri}/".startswith(root):
            return False
        folder = f"{uri}/"[len(root) :]
        names = (
            "_job.json",
            "_manifest/00000000.arrow",
            "part-00000000.parquet",
            "shards/00000000-00000.parquet",
            "shards/00000000-00000.tar",
            "errors/00000000.parquet",
        )
        return not self._regex or any(self._regex.match(folder + name) for name in names)

    def check_is_here(self) -> None:
        """A local folder must be mounted."""
        uri = self.uri if self._only is not None else self.store.uri
        if is_local(uri) and not Path(uri).exists():
            raise UsageError(
                f"There is no {uri} on {gethostname()}. Mount it there, or pass an s3:// URI; then "
                "run the same command again."
            )


def _object_name(info: ObjectInfo) -> str:
    """Of an entry that is an object, or of the archive that it is a member of."""
    return archive_of(info.name) if Locator.parse(info.etag).position else info.name
