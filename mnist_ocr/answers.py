"""Whether what a store answers is the object that was listed."""

from collections.abc import Callable

from mnist_ocr.errors import ObjectError

MAX_SHORT_ANSWERS = 3
"""After as many answers that lack bytes, asking again does not help."""


def changed(uri: str) -> ObjectError:
    """An object is not the one that was listed."""
    return ObjectError("changed", f"{uri} has changed since it was listed.")


def read_whole(read: Callable[[], bytes], uri: str, etag: str, size: int) -> bytes:
    """What `read` returns, if it has the size that was listed; else it is asked again.

    Args:
        read: One request.
        uri: Of the object.
        etag: As it was listed, and compared by `read`; "" where it was not.
        size: As it was listed; below zero where it was not.

    Raises:
        ObjectError: at last: `unreadable`, or `changed` where no etag has told that it has not.
    """
    for _ in range(MAX_SHORT_ANSWERS):
        data = read()
        if len(data) == size or size < 0:
            return data
    if not etag:
        raise changed(uri)
    error = f"The store gives {len(data):,} of the {size:,} bytes of {uri}."
    raise ObjectError("unreadable", error)


def check_size(uri: str, size: int, max_bytes: int | None) -> None:
    """Refuse an object that is larger than its reader can use."""
    if max_bytes is not None and size > max_bytes:
        raise ObjectError("too_large", f"{uri} has {size:,} bytes; at most {max_bytes:,} are read.")
