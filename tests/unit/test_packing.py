"""One shard in, its files out: names, what is not packed, what a killed run leaves."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from archives import encode_png, pack_idx, pack_parquet, pack_tar, pack_zip

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import manifest, packing
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.packed_files import PackedImage
from mnist_ocr.labelling.packing import (
    ERROR_SCHEMA,
    PackJob,
    list_packed_shards,
    pack_shard,
    read_receipts,
    split,
)
from mnist_ocr.labelling.predictions import encode_table
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.storage import Store, open_store


def pack_first_shard(input_uri: Path, output: Store, kind: str = "tar") -> packing.PackReceipt:
    """List an input into `output`, and pack its first shard."""
    source = open_source(str(input_uri))
    if not manifest.list_shards(output):
        list(manifest.iterate_shards(source, output, shard_size=1000))
    job = PackJob(
        job_id="1",
        input_uri=source.uri,
        output_uri=output.uri,
        extensions=(),
        anonymous=False,
        shard_size=1000,
        versions={},
        format=kind,
    )
    return pack_shard(source, output, job, 0, Stopwatch())


def read_tars(output: Store) -> dict[str, bytes]:
    """Name and content of all members."""
    contents = {}
    for path in sorted(Path(output.uri).glob("shards/*.tar")):
        with tarfile.open(path) as archive:
            for info in archive:
                contents[info.name] = archive.extractfile(info).read()
    return contents


@pytest.fixture
def output(tmp_path: Path) -> Store:
    (tmp_path / "out").mkdir()
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "scans/a").mkdir(parents=True)
    for name in ("1.png", "a/2.png", "a/notes.txt"):
        (tmp_path / "scans" / name).write_bytes(name.encode() * 100)
    (tmp_path / "scans/empty.png").touch()
    return tmp_path / "scans"


def test_objects_are_copied_as_they_are(scans: Path, output: Store) -> None:
    """Whatever they hold, under their names relative to the input."""
    receipt = pack_first_shard(scans, output)
    assert read_tars(output) == {
        str(path.relative_to(scans)): path.read_bytes() for path in scans.rglob("*.*")
    }
    assert receipt.statuses == {"ok": 4}
    assert (receipt.num_images, receipt.traffic.num_requests, receipt.num_files) == (4, 3, 1)
    assert receipt.packed_bytes == Path(output.uri, "shards/00000000-00000.tar").stat().st_size
    assert list_packed_shards(output) == [0]
    assert list(read_receipts(output, [0])) == [receipt]


def test_what_cannot_be_read_is_on_record(scans: Path, output: Store) -> None:
    """With id, path, status and reason; the others are packed."""
    (scans / "b.png").symlink_to(scans / "nowhere.png")
    with (scans / "huge.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (scans / "cut.tar").write_bytes(pack_tar({"1.png": b"x", "2.png": b"y" * 600})[:2400])
    source = open_source(str(scans))
    list(manifest.iterate_shards(source, output, shard_size=1000))
    (scans / "a/2.png").write_bytes(b"another")
    receipt = pack_first_shard(scans, output)
    errors = pd.read_parquet(output.uri + "/errors")
    assert dict(zip(errors["path"], errors["status"], strict=True)) == {
        f"{scans}/a/2.png": "changed",
        f"{scans}/b.png": "missing",
        f"{scans}/cut.tar": "truncated",
        f"{scans}/huge.png": "too_large",
    }
    assert errors["error"].str.endswith(".").all()
    assert errors["id"].is_monotonic_increasing
    assert receipt.num_errors == 4
    assert set(read_tars(output)) == {"1.png", "a/notes.txt", "cut.tar/1.png", "empty.png"}


def test_archives_are_packed_as_folders(tmp_path: Path, output: Store) -> None:
    """Rows and pages get an ending by what they hold."""
    pages = np.arange(2 * 12, dtype=np.uint8).reshape(2, 4, 3)
    png = encode_png(pages[0])
    jpeg = cv2.imencode(".jpg", pages[1])[1].tobytes()
    (tmp_path / "in").mkdir()
    contents = {
        "a.tar": pack_tar({"x/1.png": png}),
        "b.zip": pack_zip({"../1.png": png}),
        "c.parquet": pack_parquet([png, None, jpeg, b"text"]),
        "d-idx3-ubyte": pack_idx(pages),
    }
    for name, data in contents.items():
        (tmp_path / "in" / name).write_bytes(data)
    receipt = pack_first_shard(tmp_path / "in", output)
    packed = read_tars(output)
    assert list(packed) == [
        "a.tar/x/1.png",
        "b.zip/../1.png",
        "c.parquet/0.png",
        "c.parquet/2.jpeg",
        "c.parquet/3",
        "d-idx3-ubyte/0.png",
        "d-idx3-ubyte/1.png",
    ]
    assert packed["b.zip/../1.png"] == png
    page = cv2.imdecode(np.frombuffer(packed["d-idx3-ubyte/1.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(page, pages[1])
    assert receipt.statuses == {"ok": 7, "empty": 1}


def test_members_of_an_archive_that_is_the_input_keep_their_names(
    tmp_path: Path, output: Store
) -> None:
    """A tar from a zip has its members."""
    (tmp_path / "in.zip").write_bytes(pack_zip({"a/1.png": b"x", "2.png": b"y"}))
    pack_first_shard(tmp_path / "in.zip", output)
    assert read_tars(output) == {"a/1.png": b"x", "2.png": b"y"}


def test_parquet_names_the_objects_as_label_does(scans: Path, output: Store) -> None:
    """Absolute, so that labels of both join."""
    pack_first_shard(scans, output, "parquet")
    rows = pd.read_parquet(output.uri + "/shards")
    assert rows["path"].tolist() == manifest.read_shard(output, 0).table["path"].to_pylist()
    assert rows["image"][0] == b"1.png" * 100


def test_large_images_are_split_over_files(
    scans: Path, output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file holds a bounded number of bytes, or one image."""
    monkeypatch.setattr(packing, "MAX_FILE_BYTES", 1000)
    receipt = pack_first_shard(scans, output)
    assert receipt.num_files == 4
    assert [path.name for path in sorted(Path(output.uri, "shards").iterdir())] == [
        f"00000000-{number:05d}.tar" for number in range(4)
    ]
    assert len(read_tars(output)) == 4


def test_splitting_loses_nothing_and_keeps_the_order() -> None:
    """Each file is as full as it may be."""
    sizes = [5, 5, 1, 20, 3, 7, 1, 0, 0]
    images = [PackedImage(str(i), "", bytes(size)) for i, size in enumerate(sizes)]
    files = list(split(images, max_bytes=10))
    assert [image for file in files for image in file] == images
    assert [[len(image.content) for image in file] for file in files] == [
        [5, 5],
        [1],
        [20],
        [3, 7],
        [1, 0, 0],
    ]
    assert list(split([], max_bytes=10)) == []


def test_images_are_let_go_of_before_their_file_is_written(
    scans: Path, output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the next file's first; a worker holds a file's bytes once while it writes."""
    alive = {"images": 0, "files": 0}

    class Held(bytes):
        kind = "images"

        def __init__(self, _: int) -> None:
            alive[self.kind] += 1
            assert alive["files"] == (self.kind == "files")

        def __del__(self) -> None:
            alive[self.kind] -= 1

    class HeldFile(Held):
        kind = "files"

    written = []

    def write(name: str, data: bytes) -> None:
        if data == bytes(10):
            assert alive["images"] <= 1
            written.append(name)

    images = (PackedImage(str(i), "", Held(600)) for i in range(10))
    monkeypatch.setattr(packing, "_read_images", lambda *_: images)
    monkeypatch.setattr(packing, "MAX_FILE_BYTES", 1900)
    monkeypatch.setitem(packing.ENCODERS, "tar", lambda _: HeldFile(10))
    monkeypatch.setattr(output, "write", write)
    source = open_source(str(scans))
    list(manifest.iterate_shards(source, open_store(output.uri), shard_size=1000))
    pack_first_shard(scans, output)
    assert len(written) == 4


def test_files_of_a_killed_run_do_not_stay_behind(
    scans: Path, output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is less to read the second time, no image is in two files."""
    monkeypatch.setattr(packing, "MAX_FILE_BYTES", 1000)
    pack_first_shard(scans, output)
    Path(output.uri, "errors/00000000.parquet").unlink()
    (scans / "1.png").unlink()
    (scans / "a/notes.txt").unlink()
    receipt = pack_first_shard(scans, output)
    assert receipt.statuses == {"ok": 2, "missing": 2}
    assert [path.name for path in Path(output.uri, "shards").iterdir()] == ["00000000-00000.tar"]
    assert set(read_tars(output)) == {"a/2.png", "empty.png"}


def test_leftovers_are_deleted_from_the_last_on(
    scans: Path, output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill between two deletions would hide the rest behind a gap."""
    for number in range(4):
        output.write(f"shards/00000000-{number:05d}.tar", b"")
    deleted: list[str] = []
    delete = output.delete
    monkeypatch.setattr(output, "delete", lambda name: (deleted.append(name), delete(name)))
    pack_first_shard(scans, output)
    assert deleted == [f"shards/00000000-{number:05d}.tar" for number in (3, 2, 1)]


def test_leftover_that_cannot_be_deleted_stops_the_job(
    scans: Path, output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than to have its images twice."""
    output.write("shards/00000000-00001.tar", b"")
    monkeypatch.setattr(output, "delete", lambda name: None)
    with pytest.raises(UsageError, match=r"Cannot delete .*shards/00000000-00001\.tar"):
        pack_first_shard(scans, output)
    assert list_packed_shards(output) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-20] + b"\xff" * 8 + data[-12:],
        lambda data: data.replace(b'"num_images"', b'"num_imagez"'),
        lambda data: data.replace(b'{"job_id"', b'["job_id"'),
    ],
)
def test_damaged_record_is_named(damage: Callable[[bytes], bytes], output: Store) -> None:
    """It says what to do, whatever Parquet's reader has against it."""
    table = pa.Table.from_pylist([], ERROR_SCHEMA)
    metadata = {"job_id": "1", "receipt": {"num_images": 1}}
    output.write("errors/00000003.parquet", damage(encode_table(table, metadata)))
    with pytest.raises(UsageError, match=r"(?s)00000003\.parquet is damaged.*Delete it and run"):
        list(read_receipts(output, [3]))


def test_a_name_that_is_not_utf8_survives(tmp_path: Path, output: Store) -> None:
    """Byte by byte, through the manifest too."""
    (tmp_path / "in").mkdir()
    name = b"\xff\xfe.png".decode(errors="surrogateescape")
    (tmp_path / "in" / name).write_bytes(b"x")
    pack_first_shard(tmp_path / "in", output)
    with tarfile.open(fileobj=io.BytesIO(output.read("shards/00000000-00000.tar"))) as archive:
        assert archive.getnames() == [name]
