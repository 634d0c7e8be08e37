"""What `plan` says of an input before anything of it is read."""

import gzip
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from archives import encode_png, pack_parquet, pack_tar, pack_zip, write_containers

from mnist_ocr import storage
from mnist_ocr.labelling import census, inventory
from mnist_ocr.labelling.census import find_ending
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.inventory import Inventory, take_inventory


def write_folder(root: Path) -> Path:
    """30 PNGs in three folders, a text, two tars of 100 and 200 members."""
    png = encode_png(np.full((28, 28), 9, np.uint8))
    for i in range(30):
        (root / f"scans-{i % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"scans-{i % 3}/{i}.PNG").write_bytes(png)
    (root / "scans-0/notes.txt").write_bytes(b"hello")
    for number in (100, 200):
        members = {f"{i}.png": png for i in range(number)}
        (root / f"{number}.tar").write_bytes(pack_tar(members))
    return root


def write_archive(path: Path, num_members: int = 3000) -> None:
    """Members of 300 bytes: less than their headers and padding in a tar."""
    rng = np.random.default_rng(0)
    members = {f"{i}.png": rng.bytes(300) for i in range(num_members)}
    contents = {
        "tar": lambda: pack_tar(members),
        "gz": lambda: gzip.compress(pack_tar(members), mtime=0),
        "zip": lambda: pack_zip(members),
        "parquet": lambda: pack_parquet(list(members.values())),
    }
    path.write_bytes(contents[path.name.rpartition(".")[2]]())


def take(uri: object, *extensions: str, max_objects: int = 1000) -> Inventory:
    return take_inventory(open_source(str(uri), extensions), max_objects)


def test_folder_is_counted_by_kind(tmp_path: Path) -> None:
    """One archive stands for the others, by size; prefixes are the folders on top."""
    root = write_folder(tmp_path)
    found = take(root)
    kinds = {kind.ending: kind for kind in found.kinds}
    assert [kind.ending for kind in found.kinds] == [".tar", ".png", ".txt"]  # by images
    assert {name: kind.num_objects for name, kind in kinds.items()} == {
        ".png": 30,
        ".tar": 2,
        ".txt": 1,
    }
    assert kinds[".tar"].num_images == pytest.approx(300, rel=0.1)  # tar pads
    assert found.relative_error == 0
    assert found.num_prefixes == 4
    assert found.size_bytes == sum(file.stat().st_size for file in root.rglob("*.*"))
    names = {info.name for info in kinds[".tar"].sample}
    assert names == {f"200.tar::{i}.png" for i in range(200)}


def test_folder_is_listed_as_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public bucket without credentials: by the source's own store, which signs nothing."""
    source = open_source(str(write_folder(tmp_path)))

    def refuse(uri: str, **_: object) -> None:
        pytest.fail(f"{uri} was opened again")

    for module in (storage, inventory):
        monkeypatch.setattr(module, "open_store", refuse, raising=False)
    assert take_inventory(source, 1000).num_objects == 33


def test_extensions_choose_objects_and_members(tmp_path: Path) -> None:
    """As `label` does: archives are opened whatever they are called."""
    root = write_folder(tmp_path)
    assert {kind.ending: kind.num_objects for kind in take(root, ".txt").kinds} == {
        ".txt": 1,
        ".tar": 2,
    }
    assert take(root, ".txt").num_images == 1


@pytest.mark.parametrize(
    "name", ["digits.tar", "digits.tar.gz", "digits.zip", "binary.parquet", "digits-idx3-ubyte"]
)
def test_archive_is_counted_by_member(name: str, tmp_path: Path) -> None:
    """By itself, in a folder, and behind a pattern."""
    images = np.arange(40 * 784, dtype=np.uint32).astype(np.uint8).reshape(40, 28, 28)
    path = write_containers(tmp_path / "all", images)[name]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).write_bytes(path.read_bytes())
    for uri in (path, tmp_path / "one", f"{tmp_path}/one/*"):
        (kind,) = take(uri).kinds
        assert (kind.is_archive, kind.num_objects, kind.num_images) == (True, 1, 40)
        assert len(list(open_source(str(uri)).read_many(kind.sample))) == 40


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_archive_that_is_not_listed_to_its_end_goes_by_size(name: str, tmp_path: Path) -> None:
    """A third of the members may be listed; headers and padding count."""
    write_archive(tmp_path / name)
    assert take(tmp_path, max_objects=1000).num_images == pytest.approx(3000, rel=0.05)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_share_of_an_archive_before_a_member(name: str, tmp_path: Path) -> None:
    """By the member's position: what is extrapolated from where time is up."""
    write_archive(tmp_path / name)
    store = storage.open_store(str(tmp_path))
    info = store.find(name)
    assert info
    member = list(open_source(str(tmp_path)).list())[999]
    # a zip has its directory at the end
    assert inventory._share_before(member, info, store) == pytest.approx(1 / 3, rel=0.15)


def test_listing_takes_the_time_of_all_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for the folder, and one for a third of an archive that stands for ten."""
    for i in range(10):
        write_archive(tmp_path / f"{i}.tar")
    seconds = count()
    monkeypatch.setattr(inventory, "process_time", lambda: float(next(seconds)))
    assert take(tmp_path, max_objects=1000).list_core_s == pytest.approx(1 + 30, rel=0.05)


@pytest.mark.parametrize(
    ("name", "num_in_stream"),
    [("digits.tar.gz", 80), ("binary.parquet", 80 / 3), ("digits.tar", 0), ("digits.zip", 0)],
)
def test_what_is_read_from_its_start_is_known(
    name: str, num_in_stream: float, tmp_path: Path
) -> None:
    """A compressed archive, a row group of Parquet; in a folder and by itself."""
    path = write_containers(tmp_path / "all", np.zeros((80, 28, 28), np.uint8))[name]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).write_bytes(path.read_bytes())
    for uri in (path, tmp_path / "one"):
        (kind,) = take(uri).kinds
        assert kind.num_in_stream == pytest.approx(num_in_stream)


def test_damaged_archive_does_not_stand_for_others(tmp_path: Path) -> None:
    """Unless all of them are."""
    content = pack_tar({f"{i}.png": b"x" for i in range(100)})
    for i in range(9):
        (tmp_path / f"{i}.tar").write_bytes(content + bytes(512 * i))
    middle = tmp_path / "4.tar"
    middle.write_bytes(b"?" * middle.stat().st_size)
    assert take(tmp_path).num_images == pytest.approx(900, rel=0.05)
    for path in tmp_path.iterdir():
        path.write_bytes(b"?" * 1000)
    found = take(tmp_path)
    assert found.num_images == 9
    assert len(found.kinds[0].sample) == 1


def test_empty_archive_is_a_row(tmp_path: Path) -> None:
    """With nothing to read."""
    (tmp_path / "a.zip").touch()
    found = take(tmp_path)
    assert (found.num_images, found.kinds[0].sample) == (1, [])


def test_listing_that_takes_too_long_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are at least so many; a list of URIs stops at --max-objects."""
    lines = "".join(f"/scans/{i}.png\n" for i in range(2500))
    (tmp_path / "list.txt").write_text(lines)
    found = take(tmp_path / "list.txt", max_objects=2000)
    assert (found.relative_error, found.num_objects) == (None, 2000)
    assert take(tmp_path / "list.txt", max_objects=2500).relative_error == 0
    for i in range(1001):
        (tmp_path / f"{i}.png").touch()
    assert (
        take(tmp_path, max_objects=10).num_objects == 1002
    )  # a folder goes on until the time is up
    monkeypatch.setattr(inventory, "TIMEOUT_S", -1.0)
    found = take(tmp_path)
    assert (found.relative_error, found.num_objects) == (None, 1000)


def test_sample_is_small_and_from_everywhere(tmp_path: Path) -> None:
    """In number and in bytes."""
    for i in range(900):
        (tmp_path / f"{i:03d}.png").touch()
    for i in range(12):
        (tmp_path / f"{i}.tif").write_bytes(bytes(3 * 1024**2))
    png, tif = take(tmp_path).kinds
    assert len(png.sample) == census.SAMPLE_SIZE
    assert max(info.name for info in png.sample) > "800.png"
    assert sum(info.size for info in tif.sample) <= census.MAX_SAMPLE_BYTES


def test_rare_kinds_are_one(tmp_path: Path) -> None:
    """Names that end in anything would otherwise be timed one by one."""
    for i in range(20):
        for k in range(i + 1):
            (tmp_path / f"{k}.x{i}").touch()
    (tmp_path / "a.tar").write_bytes(pack_tar({"1.png": b"x"}))
    found = take(tmp_path)
    assert len(found.kinds) == census.MAX_KINDS + 1
    kinds = {kind.ending: kind.num_objects for kind in found.kinds}
    assert (kinds[".x19"], kinds[".tar"], kinds["others"]) == (20, 1, sum(range(14)))
    assert found.num_objects == 211


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a/b.PNG", ".png"),
        ("a.b/c", ""),
        ("a.tar.gz", ".tar.gz"),
        ("a.tgz", ".tgz"),
        ("t10k-images-idx3-ubyte", "-idx3-ubyte"),
        ("t10k-images.idx3-ubyte.gz", ".idx3-ubyte.gz"),
        ("scan.2026-11-21", ""),
    ],
)
def test_kind_is_the_names_ending(name: str, ending: str) -> None:
    """Also of archives that have two, or none."""
    assert find_ending(name) == ending
