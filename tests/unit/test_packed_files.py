"""tar and Parquet files of images: every name and byte, for every reader, the same each time."""

import io
import subprocess
import tarfile

import pyarrow.parquet as pq
import pytest

from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling import parquet_archive, tar_archive
from mnist_ocr.labelling.packed_files import (
    ENCODERS,
    ROW_GROUP_SIZE,
    PackedImage,
    encode_parquet,
    encode_tar,
)

NAMES = [
    "",  # the marker of an S3 folder
    "a.png",
    "a//b.png",
    "a/./b/../c.png",
    "../up.png",
    "/absolute.png",
    "s3://bucket/key.png",
    "%41+ .png",
    " a ",
    "line\nbreak.png",
    "folder/",
    "d\u00e9j\u00e0/\u6570.png",
    "d\u00e9j\u00e0/",
    "not UTF-8 \udcff\udc80.png",
    "\u00e9 and not UTF-8 \udcff.png",
    "x" * 96 + ".png",
    "x" * 97 + ".png",
    "folder/" * 145 + "9.png",
]


def images_of(names: list[str]) -> list[PackedImage]:
    """Each with a content of another length."""
    return [PackedImage(name, f"/in/{i}", bytes([i]) * i * 40) for i, name in enumerate(names)]


def test_any_name_survives_in_a_tar() -> None:
    """Python's tarfile and `label` see each name and its bytes."""
    images = images_of(NAMES)
    data = encode_tar(images)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        # but for the slash behind a name that needs an extended header: tarfile drops it
        names = [info.name for info in archive.getmembers()]
        assert names == [name if name != "d\u00e9j\u00e0/" else "d\u00e9j\u00e0" for name in NAMES]
    members = list(tar_archive.list_members(io.BytesIO(data)))
    assert [member.name for member in members] == NAMES
    for member, image in zip(members, images, strict=True):
        start, end = tar_archive.locate(member.position, member.size)
        assert data[start:end] == image.content


def test_tar_itself_lists_a_tar() -> None:
    """Whole, with its end mark, and without a word about plain names."""
    data = encode_tar(images_of(["a.png", "b/c.png", "d\u00e9.png", "x" * 200]))
    done = subprocess.run(["tar", "-tf", "-"], input=data, capture_output=True, check=True)
    assert done.stdout.count(b"\n") == 4
    assert done.stderr == b""


def test_tar_that_fills_its_last_record_has_an_end_mark() -> None:
    """Readers take one without for truncated."""
    content = b"x" * (tarfile.RECORDSIZE - tarfile.BLOCKSIZE)
    data = encode_tar([PackedImage("a.png", "", content)])
    assert len(data) == 2 * tarfile.RECORDSIZE
    assert len(list(tar_archive.list_members(io.BytesIO(data)))) == 1


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 2**27])
@pytest.mark.parametrize("name", ["a.png", "x" * 100, "~" * 100])
def test_plain_header_is_what_tarfile_makes(name: str, size: int) -> None:
    """The short cut is no other format."""
    info = tarfile.TarInfo(name)
    info.size = size

    class Content(bytes):
        def __len__(self) -> int:
            return size

    header = encode_tar([PackedImage(name, "", Content())])[: tarfile.BLOCKSIZE]
    assert header == info.tobuf(tarfile.PAX_FORMAT)


def test_parquet_holds_paths_and_images() -> None:
    """In row groups, and as `label` reads them."""
    images = images_of([f"{i}.png" for i in range(1, 20)]) * 200
    data = encode_parquet(images)
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    table = file.read()
    assert table["path"].to_pylist() == [image.path for image in images]
    assert file.metadata.row_group(0).num_rows == ROW_GROUP_SIZE
    assert len(list(parquet_archive.list_members(io.BytesIO(data)))) == len(images)
    rows = [1, 1030, len(images) - 1]
    contents = list(parquet_archive.read_rows(io.BytesIO(data), rows))
    assert contents == [images[row].content for row in rows]


def test_damage_of_a_parquet_file_is_noticed() -> None:
    """One bit of an image is enough."""
    data = encode_parquet([PackedImage("a.png", "/in/a.png", b"content")])
    damaged = data.replace(b"content", b"contens")
    assert damaged != data
    with pytest.raises(ObjectError, match="CRC checksum verification failed"):
        list(parquet_archive.read_rows(io.BytesIO(damaged), [0]))


@pytest.mark.parametrize("kind", ENCODERS)
def test_same_images_make_the_same_bytes(kind: str) -> None:
    """So that a shard that is packed again does not change."""
    images = images_of(NAMES)
    assert ENCODERS[kind](images) == ENCODERS[kind](images)
