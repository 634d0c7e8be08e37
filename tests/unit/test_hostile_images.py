"""Images made to exhaust a worker: each is one row, in little memory and time.

Decoded in a child process, whose death is a failed test and not the run's. Run as a script, this
file is that child.
"""

import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from test_corpora import peak_mb

from mnist_ocr.digits.batch import prepare_images

MB = 1024**2

MAX_CPU_S = 2.0
MAX_RSS_MB = 500


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, extra: bytes = b"", pixels: bytes | None = None) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = pixels or zlib.compress((b"\0" + bytes(side)) * side)
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(num_bytes: int) -> bytes:
    """Compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MB)) for _ in range(num_bytes // MB)) + packer.flush()


def jpeg(side: int) -> bytes:
    page, options = np.full((side, side), 128, np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    return cv2.imencode(".jpg", page, options)[1].tobytes()


def jpeg_of_many_scans() -> bytes:
    """The last scan, a few bytes that stand for all pixels, again and again."""
    data = jpeg(4000)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 10_000 + data[-2:]


def jpeg_that_claims(side: int) -> bytes:
    data = bytearray(jpeg(8))
    struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, side, side)
    return bytes(data)


def gif(blocks: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 28, 28, 0, 0, 0) + blocks + b";"


def pillow(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def animation(format_name: str) -> bytes:
    frames = [Image.new("L", (300, 300), i) for i in range(250)]
    return pillow(frames[0], format_name, save_all=True, append_images=frames[1:])


def webp_whose_frame_exceeds_its_canvas() -> bytes:
    frame = pillow(Image.new("RGB", (4000, 4000)), "WEBP", lossless=True, method=0)[12:]
    body = b"WEBPVP8X" + struct.pack("<I4s3s3s", 10, b"\x10", b"\x1b", b"\x1b") + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(data: bytes, next_directory: int = 0, side: int = 28, **changed: tuple[int, int]) -> bytes:
    """Grey, one strip, deflated; `changed`: tag -> (count, value)."""
    fields = {256: (1, side), 257: (1, side), 258: (1, 8), 259: (1, 8), 262: (1, 1), 273: (1, 300)}
    fields |= {277: (1, 1), 278: (1, side), 279: (1, len(data))}
    fields |= {int(tag.removeprefix("tag_")): value for tag, value in changed.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, *fields[tag]) for tag in sorted(fields))
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", next_directory)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(300, b"\0") + data


def tiff_of_many_directories() -> bytes:
    """The second after the first and so on, each with one field."""
    first = tiff(zlib.compress(bytes(784)))
    links = (len(first) + 18 * i for i in range(100_000))
    entries = (struct.pack("<HHHIII", 1, 256, 4, 1, 1, link + 18) for link in links)
    chain = b"".join(entries) + bytes(6)
    return tiff(zlib.compress(bytes(784)), next_directory=len(first)) + chain


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "png of empty pixel chunks": ("too_large", lambda: png(28, chunk(b"IDAT", b"") * (8 * MB))),
    "png of empty other chunks": ("too_large", lambda: png(28, chunk(b"tEXt", b"") * (8 * MB))),
    "png that inflates": ("corrupt", lambda: png(28, pixels=zeros(300 * MB))),
    "png with text": ("blank", lambda: png(28, chunk(b"zTXt", b"k\0\0" + zeros(200 * MB)))),
    "png with profile": ("blank", lambda: png(28, chunk(b"iCCP", b"k\0\0" + zeros(200 * MB)))),
    "png of the largest size": ("blank", lambda: png(6000)),
    "png with exif": ("corrupt", lambda: png(28, chunk(b"eXIf", bytes(100 * MB)))),
    "jpeg of many scans": ("too_large", jpeg_of_many_scans),
    "jpeg that claims gigabytes": ("too_large", lambda: jpeg_that_claims(65_500)),
    "jpeg that claims pixels": ("blank", lambda: jpeg_that_claims(6000)),
    "jpeg of segments": (
        "corrupt",
        lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * (25 * MB) + jpeg(8)[2:],
    ),
    "jpeg of junk": ("blank", lambda: b"\xff\xd8\xff" + b"\xff\0" * (50 * MB) + jpeg(8)[2:]),
    "gif of blocks": ("too_large", lambda: gif(b"\x21\xfe" + b"\1x" * (50 * MB) + b"\0")),
    "gif of extensions": ("too_large", lambda: gif(b"\x21\xfe\0" * (30 * MB))),
    "gif animation": ("blank", lambda: animation("GIF")),
    "webp animation": ("blank", lambda: animation("WEBP")),
    "webp with a large frame": ("corrupt", webp_whose_frame_exceeds_its_canvas),
    "tiff in a circle": ("blank", lambda: tiff(zlib.compress(bytes(784)), next_directory=8)),
    "tiff of many directories": ("blank", tiff_of_many_directories),
    "tiff that inflates": ("blank", lambda: tiff(zeros(300 * MB))),
    "tiff of the largest size": ("blank", lambda: tiff(zeros(36 * MB), side=6000)),
    "tiff of many strips": (
        "corrupt",
        lambda: tiff(bytes(80 * MB), tag_273=(2**31 - 1, 300), tag_279=(2**31 - 1, 300)),
    ),
    "tiff of many strips that are there": (
        "corrupt",
        lambda: tiff(bytes(80 * MB), tag_273=(20 * MB, 300), tag_279=(20 * MB, 300)),
    ),
    "tiff with large tiles": (
        "too_large",
        lambda: tiff(b"", tag_322=(1, 60_000), tag_323=(1, 60_000)),
    ),
    "bmp of empty runs": (
        "blank",
        lambda: (
            struct.pack("<2sIIIIiiHHIIiiII", b"BM", 0, 0, 1078, 40, 28, 28, 1, 8, 1, *[0] * 5)
            + bytes(1024 + 100 * MB)
        ),
    ),
}
"""Status by name, and what builds the file."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """What became of each, by name."""
    child = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=120, check=False
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"died after {lines[-1:]}: {child.stderr[-2000:]}"
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_image_is_one_row(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    """With its status, within the limits."""
    outcome = outcomes[name]
    assert outcome["status"] == HOSTILE[name][0]
    assert outcome["cpu_s"] < MAX_CPU_S
    assert outcome["rss_mb"] < MAX_RSS_MB


def decode_all() -> None:
    """Say for each image what became of it, in one line of JSON, at once."""
    cv2.setNumThreads(1)
    for name, (_, build) in HOSTILE.items():
        content = build()
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.process_time()
        (status,) = prepare_images([content], 1).status
        cpu_s = time.process_time() - started
        outcome = {"name": name, "status": status, "cpu_s": cpu_s, "rss_mb": peak_mb()}
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    decode_all()
