"""The same images in every container."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = (
    "digits.tar",
    "digits.tar.gz",
    "digits.zip",
    "stored.zip",
    "binary.parquet",
    "struct.parquet",
    "digits-idx3-ubyte",
    "digits-idx3-ubyte.gz",
)
"""Names that `write_containers` writes."""


def encode_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def pack_tar(members: Mapping[str, bytes]) -> bytes:
    """With a directory of its own, as tar itself packs a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("digits")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pack_zip(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("digits/", b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pack_parquet(values: list[bytes | None], *, is_struct: bool = False, **options: int) -> bytes:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = (
        pa.array([{"bytes": value, "path": "x.png"} for value in values], kind)
        if is_struct
        else pa.array(values, pa.binary())
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table({"label": [0] * len(values), "image": images}), buffer, **options)
    return buffer.getvalue()


def pack_idx(images: np.ndarray) -> bytes:
    return struct.pack(">4sIII", b"\0\0\x08\3", *images.shape) + images.tobytes()


def write_containers(folder: Path, images: np.ndarray) -> dict[str, Path]:
    """Files of every format with the same images in the same order, by format."""
    folder.mkdir(parents=True, exist_ok=True)
    members = {f"digits/{i:04d}.png": encode_png(image) for i, image in enumerate(images)}
    contents: dict[str, Callable[[], bytes]] = {
        "digits.tar": lambda: pack_tar(members),
        "digits.tar.gz": lambda: gzip.compress(pack_tar(members), mtime=0),
        "digits.zip": lambda: pack_zip(members),
        "stored.zip": lambda: pack_zip(members, zipfile.ZIP_STORED),
        "binary.parquet": lambda: pack_parquet(list(members.values()), row_group_size=37),
        "struct.parquet": lambda: pack_parquet(list(members.values()), is_struct=True),
        "digits-idx3-ubyte": lambda: pack_idx(images),
        "digits-idx3-ubyte.gz": lambda: gzip.compress(pack_idx(images), mtime=0),
    }
    paths = {name: folder / name for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name]())
    return paths
