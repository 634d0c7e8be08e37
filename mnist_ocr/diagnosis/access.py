"""Tries what a job does: reads the input, writes the output, loads the model."""

from pathlib import Path
from typing import NamedTuple

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import (
    ByteRange,
    ObjectInfo,
    Store,
    is_local,
    open_store,
    resolve_uri,
)

CONTENT = b"Written by mnist-ocr doctor, which deletes it again.\n"

WILDCARDS = "*?["


class Trial(NamedTuple):
    """A file that was written for a try."""

    folder: str
    name: str
    is_kept: bool
    """Whether it could not be deleted."""


def try_input(uri: str, *, anonymous: bool = False) -> str:
    """Read a byte of the first object of an input; returns what was read.

    Raises:
        UsageError: the input cannot be listed, or is empty.
        ObjectError: the object cannot be read.
        StorageUnreachableError: the store does not answer.
    """
    folder = resolve_uri(uri)
    wildcard = next((i for i, letter in enumerate(folder) if letter in WILDCARDS), None)
    if wildcard is not None and not (is_local(folder) and Path(folder).exists()):
        folder = folder[: folder.rfind("/", 0, wildcard)] or "/"
    store, info = _find_first(folder, anonymous=anonymous)
    data = store.read_range(ByteRange(info.name, 0, 1, info.etag))
    if info.size > 0 and not data:
        raise ObjectError("truncated", f"{store.uri_of(info.name)} came without a byte.")
    return store.uri_of(info.name)


def _find_first(uri: str, *, anonymous: bool) -> tuple[Store, ObjectInfo]:
    """An object below a folder, or the object itself."""
    parent, _, name = uri.rpartition("/")
    store = open_store(uri, anonymous=anonymous)
    if not (is_local(uri) and Path(uri).is_file()):
        infos = (info for page in store.list(page_size=10) for info in page)
        if info := next((info for info in infos if not info.name.endswith("/")), None):
            return store, info
    if parent and not parent.endswith(("/", ":")):
        store = open_store(parent, anonymous=anonymous)
    elif is_local(uri):
        store = open_store("/")
    if info := store.find(name):
        return store, info
    raise UsageError(f"No objects under {uri}. Check the address.")


def try_output(uri: str, name: str, other: str | None = None, *, keep: bool = False) -> Trial:
    """Write a file of its own, which is not there yet, read it back, and delete it.

    Where a local folder is not there yet, the one that it would be made in is tried.

    Args:
        uri: Of the output.
        name: Of the file.
        other: Name of one that another machine has left for this one to see.
        keep: Leave it for the others.

    Raises:
        UsageError: it cannot be written, or the folder is not the others'.
        ObjectError: it cannot be read back.
        StorageUnreachableError: the store does not answer.
    """
    folder = resolve_uri(uri)
    while is_local(folder) and not Path(folder).exists():
        folder = str(Path(folder).parent)
    store = open_store(folder)
    store.find(name)  # a dead store is told by a listing sooner than by a PUT
    store.create(name, CONTENT)
    try:
        if store.read(name, max_bytes=len(CONTENT), size=len(CONTENT)) != CONTENT:
            raise UsageError(f"{store.uri_of(name)} reads other bytes than were written.")
    except BaseException:
        store.delete(name)
        raise
    if not keep:
        store.delete(name)
    if other is not None and not store.find(other):
        raise UsageError(
            f"{folder} is not the driver's folder of that name. Mount the same file system on "
            "every node, or pass an s3:// URI."
        )
    return Trial(folder, name, is_kept=not keep and store.find(name) is not None)


def remove_trial(trial: Trial) -> Trial:
    """Delete what `try_output` has kept; says whether that was possible."""
    store = open_store(trial.folder)
    store.delete(trial.name)
    return trial._replace(is_kept=store.find(trial.name) is not None)


def try_model(uri: str | None) -> str:
    """Load a model and run it once; returns what it is.

    Raises:
        UsageError: it is no model directory, or damaged.
        StorageUnreachableError: the store does not answer.
    """
    import numpy as np

    from mnist_ocr.digits.classifier import OnnxRuntime
    from mnist_ocr.digits.model import load_model

    model = load_model(uri)
    OnnxRuntime(model, num_threads=1).run(np.zeros((1, 28, 28), np.uint8))
    source = "the model that comes with mnist-ocr" if uri is None else uri
    return f"{source} (sha256 {model.sha256[:12]}) runs"
