"""Archives as input: every member once, with its content, whatever the archive is like."""

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from archives import (
    FORMATS,
    encode_png,
    pack_idx,
    pack_parquet,
    pack_tar,
    pack_zip,
    write_containers,
)

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.labelling import reading, zip_archive
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.sources import Source
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import ByteRange, ObjectInfo


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(100, 28, 28) uint8, all different."""
    return np.random.default_rng(0).integers(0, 255, (100, 28, 28), np.uint8)


@pytest.fixture(scope="module")
def containers(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one archive of each format."""
    folder = tmp_path_factory.mktemp("containers")
    write_containers(folder, images)
    return folder


def read_all(source: Source, **names: object) -> dict[str, object]:
    """Content, or status, by name; the names are unique."""
    infos = list(source.list())
    source.take_traffic()
    rows = zip((info.name for info in infos), source.read_many(infos), strict=True)
    found = {
        name: content.status if isinstance(content, ObjectError) else content
        for name, content in rows
    }
    assert len(found) == len(infos)
    return found


def contents_of(images: np.ndarray, name: str) -> list[object]:
    return [image if "idx3" in name else encode_png(image) for image in images]


@pytest.mark.parametrize("name", FORMATS)
def test_every_member_is_read_once_in_order(
    name: str, containers: Path, images: np.ndarray
) -> None:
    """By its name where it has one, by its number elsewhere; in a request or two for all."""
    source = open_source(str(containers / name))
    found = read_all(source)
    members = (
        [f"digits/{i:04d}.png" for i in range(100)]
        if "parquet" not in name and "idx3" not in name
        else [str(i) for i in range(100)]
    )
    assert list(found) == [f"{name}::{member}" for member in members]
    for content, expected in zip(found.values(), contents_of(images, name), strict=True):
        np.testing.assert_array_equal(content, expected)
    assert source.take_traffic().num_requests == 1
    assert source.uri_of(f"{name}::x") == f"{containers}/{name}::x"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("num_before", [1, 40, 99, 100])
def test_listing_goes_on_within_an_archive(name: str, num_before: int, containers: Path) -> None:
    """Behind any member, as it does behind any object."""
    infos = list(open_source(str(containers / name)).list())
    rest = open_source(str(containers / name)).list(infos[num_before - 1])
    assert list(rest) == infos[num_before:]


def test_folder_may_mix_images_and_archives(containers: Path, images: np.ndarray) -> None:
    """An archive's members stand where it does; the listing goes on behind each of them."""
    (containers / "a.png").write_bytes(encode_png(images[0]))
    (containers / "z.png").write_bytes(encode_png(images[1]))
    try:
        source = open_source(str(containers))
        infos = list(source.list())
        assert len(infos) == 100 * len(FORMATS) + 2
        assert infos[0].name == "a.png"
        assert infos[-1].name == "z.png"
        for i in (0, 50, 100, 101, 333, len(infos) - 2, len(infos) - 1):
            assert list(source.list(infos[i])) == infos[i + 1 :]
        shuffled = [infos[i] for i in np.random.default_rng(0).permutation(len(infos))]
        for chosen in (infos[90:450], sorted(shuffled[:50], key=infos.index)):
            for info, content in zip(chosen, source.read_many(chosen), strict=True):
                i = (
                    int(info.name.rpartition("::")[2].removeprefix("digits/")[:4])
                    if ("::" in info.name)
                    else 0
                )
                np.testing.assert_array_equal(content, contents_of(images, info.name)[i])
    finally:
        (containers / "a.png").unlink()
        (containers / "z.png").unlink()


def test_members_share_requests_up_to_a_size(
    containers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans end at `MAX_SPAN_BYTES`, and where the gap to the next member is too wide."""
    monkeypatch.setattr(reading, "MAX_SPAN_BYTES", 10 * 2048)
    source = open_source(str(containers / "digits.tar"))
    infos = list(source.list())
    assert not any(isinstance(c, ObjectError) for c in source.read_many(infos))
    assert 8 <= source.take_traffic().num_requests <= 13
    monkeypatch.setattr(reading, "MAX_GAP_BYTES", 0)
    source = open_source(str(containers / "digits.tar"))
    assert not any(isinstance(c, ObjectError) for c in source.read_many(infos))
    assert source.take_traffic().num_requests == 100


def test_extensions_choose_members(tmp_path: Path) -> None:
    """Tar and zip are folders; rows of Parquet and pages of idx go by their file's name."""
    members = {"a.png": b"1", "a.json": b"{}", "__MACOSX/._a.png": b"x", "b.PNG": b"2"}
    (tmp_path / "x.tar").write_bytes(pack_tar(members))
    (tmp_path / "x.zip").write_bytes(pack_zip(members))
    (tmp_path / "x.parquet").write_bytes(pack_parquet([b"1"]))
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    names = [info.name for info in open_source(str(tmp_path), (".png",)).list()]
    chosen = ["a.png", "__MACOSX/._a.png", "b.PNG"]
    assert names == [
        "broken.tar",
        *(f"x.tar::{name}" for name in chosen),
        *(f"x.zip::{name}" for name in chosen),
    ]
    names = [info.name for info in open_source(str(tmp_path), (".parquet",)).list()]
    assert names == ["broken.tar", "x.parquet::0"]


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("a.tar", b"", "empty"),
        ("a.tar", b"no tar" * 500, "not_an_image"),
        ("a.tar", bytes(10240), "empty"),
        ("a.tar.gz", b"no gzip", "not_an_image"),
        ("a.tgz", gzip.compress(b"no tar" * 500), "not_an_image"),
        ("a.zip", b"no zip" * 500, "not_an_image"),
        ("a.zip", pack_zip({"a": b"x" * 999}, zipfile.ZIP_STORED)[:500], "truncated"),
        ("a.parquet", b"no Parquet" * 500, "not_an_image"),
        ("a.parquet", pack_parquet([b"x"])[:-8], "truncated"),
        ("a.parquet", pack_parquet([b"x"]).replace(b"image", b"imag\xff"), "corrupt"),
        ("a.idx", b"no idx" * 500, "not_an_image"),
        ("a-idx3-ubyte", b"\0\0\x08\3\0", "truncated"),
        ("a-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\1" + bytes(12)), "not_an_image"),
    ],
)
def test_archive_that_is_none_is_one_row(
    name: str, content: bytes, status: str, tmp_path: Path
) -> None:
    """With a sentence, and the objects around it are listed."""
    for each in (name, "0.png", "z.png"):
        (tmp_path / each).write_bytes(content if each == name else b"x")
    source = open_source(str(tmp_path))
    assert read_all(source) == {"0.png": b"x", name: status, "z.png": b"x"}
    infos = list(source.list())
    (error,) = source.read_many(infos[1:2])
    assert str(error).endswith(".")
    assert list(source.list(infos[1])) == infos[2:]


@pytest.mark.parametrize(
    "name",
    [
        "digits.tar",
        "digits.tar.gz",
        "digits.zip",
        "stored.zip",
        "digits-idx3-ubyte",
        "digits-idx3-ubyte.gz",
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.77])
def test_truncated_archive_keeps_the_members_before_the_cut(
    name: str, share: float, containers: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """And has one row of its own, which says so."""
    content = (containers / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    found = read_all(open_source(str(tmp_path)))
    assert found.pop(name) == "truncated"
    assert abs(len(found) - 100 * share) < 20
    for content, expected in zip(found.values(), contents_of(images, name), strict=False):
        np.testing.assert_array_equal(content, expected)


def test_tar_without_its_end_is_truncated(tmp_path: Path) -> None:
    """A cut between two members looks like a whole archive but for the end mark."""
    buffer = io.BytesIO(pack_tar({"a.png": b"1", "b.png": b"2"}))
    with tarfile.open(fileobj=buffer) as archive:
        cut = archive.getmember("b.png").offset
    (tmp_path / "a.tar").write_bytes(buffer.getvalue()[:cut])
    assert read_all(open_source(str(tmp_path))) == {"a.tar::a.png": b"1", "a.tar": "truncated"}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_may_be_cut_anywhere(kind: int, tmp_path: Path) -> None:
    """Within a header of any kind, a member, its padding or the end mark: members, then a row."""
    buffer = io.BytesIO()
    names = ["a.png", "b.png", "c/" * 60 + "d.png"]
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 300, 1.5
            archive.addfile(info, io.BytesIO(b"x" * 300))
    content = buffer.getvalue()
    end = len(content.rstrip(b"\0"))
    for cut in range(1, end + 512, 7):
        (tmp_path / "a.tar").write_bytes(content[:cut])
        found = read_all(open_source(str(tmp_path)))
        assert found.pop("a.tar") == ("truncated" if cut > 262 else "not_an_image"), cut
        assert list(found) == [f"a.tar::{name}" for name in names][: len(found)]
        assert set(found.values()) <= {b"x" * 300}
    assert len(found) == 3


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [-512, -2048])
@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_tar_with_a_negative_size_has_an_end(
    kind: bytes, size: int, name: str, tmp_path: Path
) -> None:
    """A number of GNU's may be below zero, and would lead backwards for ever."""
    header = tarfile.TarInfo("x.png")
    header.type, header.size = kind, size
    before, after = pack_tar({"a.png": b"1"})[:1536], pack_tar({"b.png": b"2"})
    content = before + header.tobuf(tarfile.GNU_FORMAT) + after
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "a.tgz" else content)
    infos = list(islice(open_source(str(tmp_path)).list(), 9))
    assert [info.name for info in infos] == [f"{name}::a.png", name]
    assert Locator.parse(infos[1].etag).status in ("corrupt", "truncated")


def test_appended_tars_are_read_to_the_end(tmp_path: Path) -> None:
    """`cat a.tar b.tar`: nothing is lost without a word."""
    both = pack_tar({"a.png": b"1"}) + pack_tar({"b.png": b"2"})
    (tmp_path / "a.tar").write_bytes(both)
    assert read_all(open_source(str(tmp_path))) == {"a.tar::a.png": b"1", "a.tar::b.png": b"2"}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1.5])
def test_tar_of_any_kind_gives_what_tarfile_does(kind: int, mtime: float, tmp_path: Path) -> None:
    """Long and foreign names, odd sizes, fractions of seconds, headers for the whole archive."""
    names = ["a.png", "b" * 120 + ".png", "c/" * 40 + "d.png", "d" * 90 + "/" + "e" * 60, "é.png"]
    for headers in ({}, {"comment": "x"}, {"path": "all.png"}):
        with tarfile.open(tmp_path / "a.tar", "w", format=kind, pax_headers=headers) as archive:
            for i, name in enumerate(names):
                if kind == tarfile.USTAR_FORMAT and len(name) in (124,):
                    continue
                info = tarfile.TarInfo(name)
                info.size, info.mtime = 300 * i, mtime
                archive.addfile(info, io.BytesIO(bytes([i]) * info.size))
        with tarfile.open(tmp_path / "a.tar") as archive:
            expected = [
                (f"a.tar::{info.name}", info.size, str(info.offset_data))
                for info in archive.getmembers()
            ]
        infos = list(open_source(str(tmp_path)).list())
        assert [(i.name, i.size, i.etag.split("\t")[1]) for i in infos] == expected


def test_damaged_header_in_a_tar_is_a_row(tmp_path: Path) -> None:
    """The standard library would take it for the end of the archive."""
    content = bytearray(pack_tar({"a.png": b"1", "b.png": b"2", "c.png": b"3"}))
    offset = content.index(b"b.png")
    content[offset : offset + 3] = b"xyz"
    (tmp_path / "a.tar").write_bytes(content)
    assert read_all(open_source(str(tmp_path))) == {"a.tar::a.png": b"1", "a.tar": "corrupt"}


def test_members_with_any_name_are_only_names(tmp_path: Path) -> None:
    """Absolute, climbing, long, foreign, doubled: rows, and no file appears anywhere."""
    names = ["/etc/passwd", "../../up.png", "a\nb.png", "é%+ .png", "x" * 300 + ".png", "y.zip::z"]
    (tmp_path / "a.tar").write_bytes(pack_tar({name: name.encode() for name in names}))
    (tmp_path / "b.zip").write_bytes(pack_zip({name: name.encode() for name in names}))
    before = sorted(tmp_path.parent.rglob("*"))
    found = read_all(open_source(str(tmp_path)))
    assert found == {
        f"{archive}::{name}": name.encode() for archive in ("a.tar", "b.zip") for name in names
    }
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_members_of_one_name_are_two_rows(tmp_path: Path) -> None:
    """Tar appends a newer version of a file; both are images."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for content in (b"1", b"2"):
            info = tarfile.TarInfo("a.png")
            info.size = 1
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    source = open_source(str(tmp_path))
    infos = list(source.list())
    assert list(source.read_many(infos)) == [b"1", b"2"]
    assert list(source.list(infos[0])) == infos[1:]


def test_what_is_no_file_in_a_tar(tmp_path: Path) -> None:
    """Links have rows, which say why they are not read; folders and devices have none."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("s", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE), ("f", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    found = read_all(open_source(str(tmp_path)))
    assert found == {"a.tar::s": "unsupported", "a.tar::h": "unsupported"}


def test_bombs_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member larger than an image may be is never decompressed; one that lies is stopped."""
    (tmp_path / "a.zip").write_bytes(pack_zip({"huge": bytes(MAX_BYTES + 1), "small": b"x"}))
    liar = bytearray(pack_zip({"liar": bytes(10**6)}))
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        start = liar.rindex(signature) + offset
        liar[start : start + 4] = (10).to_bytes(4, "little")
    (tmp_path / "b.zip").write_bytes(liar)
    huge = tarfile.TarInfo("huge")
    huge.size = MAX_BYTES + 1
    with gzip.open(tmp_path / "c.tgz", "wb", compresslevel=1) as file:
        file.write(huge.tobuf() + bytes(-(-huge.size // 512) * 512) + pack_tar({"a": b"x"}))
    assert read_all(open_source(str(tmp_path))) == {
        "a.zip::huge": "too_large",
        "a.zip::small": b"x",
        "b.zip::liar": "corrupt",
        "c.tgz::huge": "too_large",
        "c.tgz::a": b"x",
    }


def test_member_that_lies_about_its_size_is_given_no_memory() -> None:
    """However much the bytes would grow to."""
    packed = pack_zip({"liar": bytes(20_000_000)})
    data = packed[packed.rindex(b"PK\3\4") : packed.index(b"PK\1\2")]
    tracemalloc.start()
    try:
        with pytest.raises(ObjectError, match="size and checksum"):
            zip_archive.extract(data, "0-0-0", 10)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_header_that_asks_for_gigabytes_is_damage(tmp_path: Path) -> None:
    """A tar's own extended header may claim any size; not even a sparse file gives it memory."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 4 * 1024**3
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(header.tobuf())
        file.truncate(5 * 1024**3)
    assert read_all(open_source(str(tmp_path))) == {"a.tar": "too_large"}


def test_zip_members_that_cannot_be_read_are_rows(tmp_path: Path) -> None:
    """Encrypted, of an unknown method, damaged."""
    good = pack_zip({"a.png": b"12345" * 99})
    central, data = good.rindex(b"PK\1\2"), good.index(b"a.png") + 5
    encrypted, foreign, damaged = bytearray(good), bytearray(good), bytearray(good)
    encrypted[central + 8] |= 1
    foreign[central + 10] = 93
    damaged[data + 3] ^= 0xFF
    for name, content in {"e": encrypted, "f": foreign, "d": damaged}.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
    assert read_all(open_source(str(tmp_path))) == {
        "d.zip::a.png": "corrupt",
        "e.zip::a.png": "unsupported",
        "f.zip::a.png": "unsupported",
    }


def test_zip_with_a_huge_directory_is_a_row(tmp_path: Path) -> None:
    """Which says what to do; the directory would be held in memory."""
    size = MAX_BYTES + 1
    with (tmp_path / "a.zip").open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 9, 9, size, 0, 0))
    (info,) = open_source(str(tmp_path)).list()
    assert Locator.parse(info.etag).status == "too_large"
    assert "split the zip, or pack a tar" in info.etag


@pytest.mark.parametrize("cut", [None, -30])
def test_zip_member_without_a_name_is_a_row(cut: int | None, tmp_path: Path) -> None:
    """Also where the directory is gone."""
    content = bytearray(pack_zip({"a": b"1", "b": b"2"}, zipfile.ZIP_STORED))
    for signature, position in ((b"PK\1\2", 46), (b"PK\3\4", 30)):
        header = content.rindex(signature)
        length = header + (28 if position == 46 else 26)
        content[length] = 0  # and its one letter is an extra field
        content[length + 2] = 1
    (tmp_path / "a.zip").write_bytes(content[:cut])
    found = read_all(open_source(str(tmp_path)))
    assert found.pop("a.zip", None) == (None if cut is None else "truncated")
    assert found == {"a.zip::a": b"1", "a.zip::": b"2"}


def test_zip_without_its_first_bytes_is_corrupt(tmp_path: Path) -> None:
    """Its directory leads to before its start."""
    (tmp_path / "a.zip").write_bytes(pack_zip({"a": b"1", "b": b"2"})[10:])
    assert read_all(open_source(str(tmp_path))) == {"a.zip": "corrupt"}


def test_zip_members_that_overlap_are_rows(tmp_path: Path) -> None:
    """Members within another's data, as in the densest bombs: each byte is read for one of them."""
    inner = pack_zip({"b": b"y" * 100}, zipfile.ZIP_STORED)
    inner = inner[inner.rindex(b"PK\3\4") : inner.index(b"PK\1\2")]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", inner)
        info = zipfile.ZipInfo("b")
        info.file_size = info.compress_size = 100
        info.CRC = zlib.crc32(b"y" * 100)
        info.header_offset = buffer.getvalue().index(inner)
        archive.filelist.append(info)
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    assert read_all(open_source(str(tmp_path))) == {"a.zip::a": "corrupt", "a.zip::b": b"y" * 100}


def test_size_beyond_what_a_manifest_holds_is_a_row(tmp_path: Path) -> None:
    """Of 64 bits without a sign in a zip, of any number in a tar."""
    packed = bytearray(pack_zip({"a": b"x"}, zipfile.ZIP_STORED))
    central = packed.rindex(b"PK\1\2")
    packed[central + 20 : central + 28] = b"\xff" * 8
    extra = struct.pack("<HHQQ", 1, 16, 2**64 - 1, 2**64 - 1)
    packed[central + 30 : central + 32] = struct.pack("<H", len(extra))
    packed[central + 47 : central + 47] = extra
    end = packed.rindex(b"PK\5\6")
    (size,) = struct.unpack_from("<I", packed, end + 12)
    struct.pack_into("<I", packed, end + 12, size + len(extra))
    (tmp_path / "a.zip").write_bytes(packed)
    sparse = tarfile.TarInfo("b")
    sparse.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**80)}
    header = sparse.tobuf(tarfile.PAX_FORMAT)
    (tmp_path / "b.tar").write_bytes(header + pack_tar({"c": b"1"}))
    infos = list(open_source(str(tmp_path)).list())
    assert {info.name: info.size for info in infos} == {
        "a.zip::a": 2**63 - 1,
        "b.tar::b": 2**63 - 1,
        "b.tar::c": 1,
    }


def test_nested_archive_is_a_row(tmp_path: Path) -> None:
    """It is content like any other."""
    inner = pack_tar({"a.png": b"1"})
    (tmp_path / "a.zip").write_bytes(pack_zip({"inner.tar": inner}))
    assert read_all(open_source(str(tmp_path))) == {"a.zip::inner.tar": inner}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": [1], "name": ["x"]}, {"a.parquet": "not_an_image"}),
        ({"a": [b"1"], "b": [b"2"]}, {"a.parquet": "unsupported"}),
        ({"a": [b"1"], "png": [b"2"]}, {"a.parquet::0": b"2"}),
        (
            {"image": [b"1", None, b""]},
            {"a.parquet::0": b"1", "a.parquet::1": "empty", "a.parquet::2": "empty"},
        ),
    ],
)
def test_column_of_images(
    columns: dict[str, list[object]], expected: dict[str, object], tmp_path: Path
) -> None:
    """The only one of bytes, or the one with a telling name; null is no image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read_all(open_source(str(tmp_path))) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_archive_that_changed_or_went_is_said_by_each_row(
    name: str, containers: Path, tmp_path: Path
) -> None:
    """Between listing and reading; within the listing one row stands for the rest."""
    path = tmp_path / name
    path.write_bytes((containers / name).read_bytes())
    source = open_source(str(path))
    infos = list(source.list())
    path.write_bytes(path.read_bytes() + b"x")
    statuses = {getattr(content, "status", None) for content in source.read_many(infos)}
    assert statuses == {"changed"}
    (row,) = source.list(infos[10])
    (content,) = source.read_many([row])
    assert (row.name, content.status) == (name, "changed")
    path.unlink()
    statuses = {getattr(content, "status", None) for content in source.read_many(infos)}
    assert statuses == {"missing"}
    (row,) = source.list(infos[10])
    (content,) = source.read_many([row])
    assert (row.name, content.status) == (name, "missing")


class FaultyStore(LocalStore):
    """A folder whose parts cannot be read."""

    status = ""

    def read_range(self, wanted: ByteRange) -> bytes:
        """Fail as told."""
        if self.status:
            raise ObjectError(self.status, "No.")
        return super().read_range(wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_archive_that_may_not_be_read(name: str, containers: Path) -> None:
    """A forbidden archive is one row; a store that asks to slow down ends the listing instead."""
    store = FaultyStore(str(containers))
    source = FolderSource(store, only=name)
    infos = list(source.list())
    store.status = "throttled"
    assert {getattr(c, "status", None) for c in source.read_many(infos)} == {"throttled"}
    with pytest.raises(StorageUnreachableError):
        list(source.list())
    store.status = "forbidden"
    assert read_all(source) == {name: "forbidden"}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("error", [UsageError("expired"), StorageUnreachableError("down")])
def test_store_that_fails_is_not_the_archives_fault(
    name: str, error: Exception, containers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage, or credentials that expire, end the job instead of becoming rows."""
    source = open_source(str(containers / name))
    infos = list(source.list())

    def fail(self: LocalStore, wanted: ByteRange) -> bytes:
        raise error

    monkeypatch.setattr(LocalStore, "read_range", fail)
    with pytest.raises(type(error), match=str(error)):
        list(source.read_many(infos))
    with pytest.raises(type(error), match=str(error)):
        list(source.list())


def test_name_alone_makes_an_archive(tmp_path: Path) -> None:
    """A folder may be called `a.tar`, an object `a.tar::b.png`, and each is what it is."""
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "a.tar/b.png").write_bytes(b"1")
    (tmp_path / "b.tar::c.png").write_bytes(b"2")
    assert read_all(open_source(str(tmp_path))) == {"a.tar/b.png": b"1", "b.tar::c.png": b"2"}
    assert read_all(open_source(str(tmp_path / "a.tar"))) == {"b.png": b"1"}
    with pytest.raises(UsageError, match=r"There is no .*none\.tar"):
        open_source(str(tmp_path / "none.tar"))


def test_idx_pages_are_decoded_without_an_image_format(tmp_path: Path) -> None:
    """A page of any size; one of no pixels is damage."""
    pages = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    (tmp_path / "a.idx").write_bytes(pack_idx(pages))
    (tmp_path / "b.idx").write_bytes(pack_idx(pages[:, :0]))
    infos = list(open_source(str(tmp_path)).list())
    assert [info.size for info in infos[:2]] == [15, 15]
    first, second, error = open_source(str(tmp_path)).read_many(infos)
    np.testing.assert_array_equal(np.stack([first, second]), pages)
    assert error.status == "corrupt"
    assert isinstance(infos[0], ObjectInfo)
