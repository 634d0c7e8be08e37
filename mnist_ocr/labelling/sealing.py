"""Files that hold a sha256 of themselves, so that a bit that has changed is noticed.

It stands in the metadata in a file's footer, and is computed with zeros in its place, as the
checksum in a tar's header is with spaces.
"""

import hashlib

_KEY = "file_sha256"
_NO_DIGEST = "0" * 64
_DIGEST_START = f'"{_KEY}": "'.encode()
"""What stands before the digest in a file; within a JSON string its quotes would be escaped."""

UNSEALED = {_KEY: _NO_DIGEST}
"""What a file's JSON holds until it is sealed."""


def seal(data: bytes) -> bytes:
    """A file whose metadata has `UNSEALED` in it, encoded by `json.dumps`, with its digest."""
    place = _find_digest(data)
    assert place
    return data[: place.start] + _digest_file(data, place) + data[place.stop :]


def check_seal(data: bytes) -> str:
    """The digest of a file that was sealed, 64 hex digits.

    Raises:
        ValueError: it was not, or has changed since.
    """
    place = _find_digest(data)
    if not place or data[place] != _digest_file(data, place):
        raise ValueError("its bytes do not have the sha256 that it was written with")
    return data[place].decode()


def _find_digest(data: bytes) -> slice | None:
    """The place of the digest, None where there is none; the last, since it is in the footer."""
    start = data.rfind(_DIGEST_START) + len(_DIGEST_START)
    return slice(start, start + len(_NO_DIGEST)) if start >= len(_DIGEST_START) else None


def _digest_file(data: bytes, place: slice) -> bytes:
    content = memoryview(data)
    digest = hashlib.sha256(content[: place.start])
    digest.update(_NO_DIGEST.encode())
    digest.update(content[place.stop :])
    return digest.hexdigest().encode()
