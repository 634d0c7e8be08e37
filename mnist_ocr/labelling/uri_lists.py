"""A list of URIs as the input: text, CSV, Parquet, or an S3 Inventory.

    .txt             a URI on each line
    .csv             the column path, uri, url or key; the first where none is called so
    .parquet         the column path, uri, url or key
    manifest.json    of S3 Inventory: the files that it names hold bucket, key, size and etag

A line without a protocol is a path, from the list's folder on if it is relative. Where there is a
column `bucket` beside `key`, the two make an S3 URI, and columns of size and etag are believed.
Every line has its row, also the second that names an object; empty lines have none.

A signed URL goes by a name without its signature, and its signature is read from the list when the
object is: nothing that a job writes holds it, and a list with new signatures resumes the job.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from posixpath import normpath

import fsspec

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.archives import archive_of, find_format, open_archive
from mnist_ocr.labelling.list_files import Listed, find_columns, read_inventory, read_list
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.members import ContentOrError
from mnist_ocr.labelling.parquet_archive import find_image_column, open_parquet
from mnist_ocr.labelling.sources import Entry, Source
from mnist_ocr.local_store import LocalStore
from mnist_ocr.redaction import REDACTED, redact_uri
from mnist_ocr.storage import ObjectInfo, Store, check_no_nul, check_no_secret, is_local, open_store

LIST_NAME = re.compile(r"\.(?:txt|csv)(?:\.gz)?$|(?:^|/)manifest\.json$", re.I)
"""Names that make an object a list; a Parquet file may be one, too."""


BUCKET = re.compile(r"[\w.:-]+", re.ASCII)
"""Names of S3's buckets and access points; the client crashes at others."""


def is_list(store: Store, info: ObjectInfo) -> bool:
    """Whether an object is a list of URIs: by its name, or if it is Parquet by its columns."""
    if not info.name.lower().endswith(".parquet"):
        return bool(LIST_NAME.search(info.name))
    try:
        schema = open_parquet(open_archive(store.read_range, info)).schema_arrow
    except ObjectError:
        return False  # the row of an archive says why
    try:
        find_image_column(schema)
    except ObjectError:
        return "uri" in find_columns(schema.names)
    return False


class ListSource(Source):
    """The objects that a list names, in its order.

    Args:
        store: Where the list lies.
        name: Its name there.
        extensions: Only objects that end so.
        anonymous: Sign nothing: the buckets are public.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        extensions: Sequence[str] = (),
        *,
        anonymous: bool = False,
    ) -> None:
        super().__init__(store.uri_of(name), extensions)
        self._store = store
        self._name = name
        self._anonymous = anonymous
        self._stores: dict[str, Store] = {}
        self._protocols = frozenset(fsspec.available_protocols())
        self._passing: Iterator[Listed] = iter(())
        """The list, from where `_read_lines` has left it."""
        self._num_passed = 0

    def uri_of(self, name: str) -> str:
        """The name itself: names are absolute."""
        return name

    @property
    def _used_stores(self) -> Iterable[Store]:
        return self._stores.values()

    def holds(self, uri: str) -> bool:
        """Never: what is not on the list is not listed."""
        return False

    def locate(self, name: str) -> tuple[Store, str]:
        """The store of a URI, opened once, and the name below it."""
        if is_local(name):
            root, name = "", name[1:]
        else:
            protocol, _, rest = name.partition("://")
            bucket, _, name = rest.partition("/")
            root = f"{protocol}://{bucket}"
        if root not in self._stores:
            self._stores[root] = (
                open_store(root, anonymous=self._anonymous) if root else LocalStore("")
            )
        return self._stores[root], name

    def scan(self, after: ObjectInfo | None = None, until: str = "") -> Iterator[Entry]:
        """In the order of the list; members of archives in theirs."""
        old = Locator.parse(after.etag) if after else Locator()
        num_before = int(old.line or 0)
        number = 0
        for number, listed in enumerate(self._read(), 1):
            uri = self._resolve(listed.uri)
            if number > num_before:
                entries = self._expand_line(ObjectInfo(uri, listed.size, listed.etag), number)
                yield from _rename(entries, uri, _hide_secret(uri))
            elif number == num_before and after:
                public = _hide_secret(uri)
                if public != (archive_of(after.name) if old.position else after.name):
                    raise self._changed()
                if old.position:
                    secret = after._replace(name=uri + after.name[len(public) :])
                    entries = self._expand_after(secret, self._find(uri))
                    yield from _rename(entries, uri, public)
        if number < num_before:
            raise self._changed()

    def read_many(self, objects: Sequence[ObjectInfo]) -> Iterator[ContentOrError]:
        """Each one's content, or the reason why not, in order."""
        hidden = [info for info in objects if REDACTED in info.name]
        if hidden:
            uris = self._find_uris(hidden)
            objects = [_add_secret(info, uris) for info in objects]
        return super().read_many(objects)

    def _find_uris(self, hidden: Sequence[ObjectInfo]) -> dict[str, str]:
        """What the list has now for entries with secrets, by what they go by outside."""
        lines = {int(Locator.parse(info.etag).line) for info in hidden}
        uris = {_hide_secret(uri): uri for uri in map(self._resolve, self._read_lines(lines))}
        lost = {_public_name(info) for info in hidden} - uris.keys()
        if lost:  # lines have been added or taken out since
            for listed in self._read():
                uri = self._resolve(listed.uri)
                if (name := _hide_secret(uri)) in lost:
                    uris[name] = uri
        return uris

    def _read_lines(self, numbers: Collection[int]) -> Iterator[str]:
        """Lines of the list by their numbers: from where the last call has ended, if they are."""
        if min(numbers) <= self._num_passed or not self._num_passed:
            self._passing, self._num_passed = self._read(), 0
        for listed in islice(self._passing, max(numbers) - self._num_passed):
            self._num_passed += 1
            if self._num_passed in numbers:
                yield listed.uri

    def _changed(self) -> UsageError:
        return UsageError(
            f"The list {self.uri} has changed since the job began. Choose another output folder."
        )

    def _read(self) -> Iterator[Listed]:
        info = self._store.find(self._name)
        if not info:
            raise UsageError(f"There is no list {self.uri} (any more). Check the path.")
        if self._name.endswith(".json"):
            return read_inventory(self._store, info, anonymous=self._anonymous)
        return read_list(self._store, info)

    def _resolve(self, text: str) -> str:
        text = text.removeprefix("file://")
        if "://" in text or text.startswith("/"):
            return text
        return self._store.uri_of(normpath(text))

    def _find(self, uri: str) -> ObjectInfo | None:
        store, name = self.locate(uri)
        info = store.find(name)
        return info and info._replace(name=uri)

    def _expand_line(self, info: ObjectInfo, number: int) -> Iterator[Entry]:
        line = str(number)
        if error := self._find_fault(info.name):
            yield info._replace(etag=Locator("", "", line, "unreadable", error).encode()), True
        elif find_format(info.name) and info.size < 0:
            if found := self._find(info.name):
                yield from self._expand(found, line)
            else:
                error = f"There is no {info.name}."
                yield info._replace(etag=Locator("", "", line, "missing", error).encode()), True
        else:
            yield from self._expand(info, line)

    def _find_fault(self, uri: str) -> str:
        """Why no store can be asked for an object, if so; what concerns the others, too, raises."""
        protocol, separator, rest = uri.partition("://")
        bucket = rest.partition("/")[0]
        try:
            if not separator:
                check_no_nul(uri)
                return ""
            check_no_secret(uri.partition("?")[0])
        except UsageError as error:
            return str(error)
        if protocol not in self._protocols:
            return f"There is no protocol {protocol}:// as in {uri}."
        if uri.encode(errors="ignore").decode() != uri:
            return f"{uri} is not UTF-8, which names in a store are: save the list as UTF-8."
        if protocol == "s3":
            return (
                "" if BUCKET.fullmatch(bucket) else f"There is no bucket {bucket!r}, as in {uri}."
            )
        if protocol in ("http", "https") and not bucket:
            return f"There is no host in {uri}."
        try:
            self.locate(uri)
        except UsageError as error:
            return str(error)
        return ""


def _hide_secret(uri: str) -> str:
    """The name that an object goes by outside the list."""
    return uri if is_local(uri) else redact_uri(uri)


def _public_name(info: ObjectInfo) -> str:
    """What the line of an entry goes by; that of a member of an archive is its archive's."""
    return archive_of(info.name) if Locator.parse(info.etag).position else info.name


def _add_secret(info: ObjectInfo, uris: dict[str, str]) -> ObjectInfo:
    """The other way round: an entry under the URI that the list has now."""
    if REDACTED not in info.name:
        return info
    public = _public_name(info)
    if public in uris:
        return info._replace(name=uris[public] + info.name[len(public) :])
    locator = Locator.parse(info.etag)
    error = "The list does not name this object any more."
    return info._replace(etag=locator._replace(status="changed", error=error).encode())


def _rename(entries: Iterable[Entry], old: str, new: str) -> Iterable[Entry]:
    """An object, or an archive with its members, under another name."""
    if old == new:
        return entries
    return (
        (info._replace(name=new + info.name[len(old) :]), is_chosen) for info, is_chosen in entries
    )
