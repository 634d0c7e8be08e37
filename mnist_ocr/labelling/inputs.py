"""An input's URI -> the source that it is."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.archives import find_format
from mnist_ocr.labelling.folders import WILDCARD, FolderSource
from mnist_ocr.labelling.sources import Source
from mnist_ocr.labelling.uri_lists import LIST_NAME, ListSource, is_list
from mnist_ocr.storage import is_local, open_store, resolve_uri


def open_source(uri: str, extensions: Sequence[str] = (), *, anonymous: bool = False) -> Source:
    """The source at a URI: a folder, unless it has a wildcard or an archive's or a list's name.

    Raises:
        UsageError: the URI makes no sense, there is no such archive or list, or there are no
            credentials for it.
        StorageUnreachableError: the store does not answer.
    """
    resolved = resolve_uri(uri)
    open_folder = partial(open_store, anonymous=anonymous)
    if is_local(resolved) and Path(resolved).is_dir():
        return FolderSource(open_folder(resolved), extensions)
    if wildcard := WILDCARD.search(resolved):
        root = resolved[: resolved.rfind("/", 0, wildcard.start())]
        if root.endswith((":", ":/")):
            raise UsageError(f"No wildcard can stand for a bucket: {uri}. Name the bucket.")
        pattern = resolved[len(root) + 1 :] + ("/**" if uri.endswith("/") else "")
        return FolderSource(open_folder(root or "/"), extensions, pattern=pattern)
    parent, _, name = resolved.rpartition("/")
    store = open_folder(parent or "/") if find_format(name) or LIST_NAME.search(name) else None
    if store and (info := store.find(name)):
        if is_list(store, info):
            return ListSource(store, name, extensions, anonymous=anonymous)
        return FolderSource(store, extensions, only=name)
    if store and not next(store.list(f"{name}/"), None):
        raise UsageError(f"There is no {uri}, neither a file nor a folder. Check the path.")
    return FolderSource(open_folder(resolved), extensions)
