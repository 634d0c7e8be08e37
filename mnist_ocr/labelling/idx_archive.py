"""idx, the format of MNIST's image files: pages in a row behind a header of 16 bytes.

Position: `OFFSET-HEIGHT-WIDTH`.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from mnist_ocr.digits.decoding import MAX_PIXELS
from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling.members import Content, Member

HEADER = struct.Struct(">4sIII")
"""Magic (unsigned bytes in three dimensions), number of pages, height, width (LeCun et al.)."""

MAGIC = b"\0\0\x08\3"


def list_members(file: BinaryIO) -> Iterator[Member]:
    """Every page, named by its number from 0.

    Raises:
        ObjectError: `truncated` after the pages before the cut, `not_an_image` or `corrupt`.
    """
    header = file.read(HEADER.size)
    if header[:4] != MAGIC:
        raise ObjectError(
            "not_an_image", f"The file is no idx file of images: it starts with {header[:4]!r}."
        )
    if len(header) < HEADER.size:
        raise ObjectError("truncated", "The idx file ends within its header: copy it again.")
    _, num_pages, height, width = HEADER.unpack(header)
    if not 0 < height * width <= MAX_PIXELS:
        raise ObjectError("corrupt", f"The idx file claims pages of {height} x {width} pixels.")
    offset = HEADER.size
    for page in range(num_pages):
        file.seek(offset + height * width - 1)
        if not file.read(1):
            raise ObjectError(
                "truncated", f"The idx file ends after {page:,} of {num_pages:,} pages."
            )
        yield Member(str(page), height * width, f"{offset}-{height}-{width}")
        offset += height * width


def locate(position: str, size: int) -> tuple[int, int]:
    """First byte of a page, and the one behind its last."""
    offset = int(position.partition("-")[0])
    return offset, offset + size


def extract(data: bytes, position: str, size: int) -> Content:
    """The page, out of the bytes that `locate` names."""
    _, height, width = position.split("-")
    return np.frombuffer(data, np.uint8).reshape(int(height), int(width))
