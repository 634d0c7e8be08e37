"""What `pack` writes: images as they are in tar or Parquet; the same bytes from the same images."""

import io
import tarfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_SIZE = 1024
"""Rows: a reader that wants a part of a Parquet file begins at a row group."""

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
    ]
)
"""Of the Parquet files."""


_BLANK = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
"""Header of a file without a name and bytes; size at 124, checksum at 148."""

_BLANK_CHECKSUM = int(_BLANK[148:154], 8)


class PackedImage(NamedTuple):
    """An encoded image on its way into a file."""

    name: str
    """Of the member of a tar; bytes that are not UTF-8 are lone surrogates."""
    path: str
    """Its address, as `label` gives it."""
    content: bytes


def encode_tar(images: Sequence[PackedImage]) -> bytes:
    """A tar (POSIX.1-2001) without times and owners; what USTAR cannot say of a name PAX does."""
    file = io.BytesIO()
    for image in images:
        file.write(_encode_header(image.name, len(image.content)))
        file.write(image.content)
        file.write(bytes(-len(image.content) % tarfile.BLOCKSIZE))
    file.write(bytes(2 * tarfile.BLOCKSIZE))  # the end mark
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return file.getvalue()


def _encode_header(name: str, size: int) -> bytes:
    """What tarfile makes of a name; of a plain one in a tenth of its 16 µs."""
    if not name.isascii() or len(name) > tarfile.LENGTH_NAME:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    fields = name.encode(), b"%011o" % size
    checksum = _BLANK_CHECKSUM + sum(map(sum, fields)) - 11 * ord("0")
    return b"".join(
        (
            fields[0].ljust(tarfile.LENGTH_NAME, tarfile.NUL),
            _BLANK[100:124],
            fields[1],
            _BLANK[135:148],
            b"%06o" % checksum,
            _BLANK[154:],
        )
    )


def encode_parquet(images: Sequence[PackedImage]) -> bytes:
    """A Parquet file of `SCHEMA`, with checksums; images are compressed already."""
    columns = {
        "path": [image.path for image in images],
        "image": [image.content for image in images],
    }
    file = io.BytesIO()
    pq.write_table(
        pa.table(columns, SCHEMA),
        file,
        row_group_size=ROW_GROUP_SIZE,
        compression={"path": "zstd", "image": "none"},
        use_dictionary=False,
        write_statistics=["path"],
        write_page_checksum=True,
    )
    return file.getvalue()


ENCODERS: dict[str, Callable[[Sequence[PackedImage]], bytes]] = {
    "tar": encode_tar,
    "parquet": encode_parquet,
}
"""By the ending of the file's name."""
