"""An object that a manifest names twice is found, and nothing else is taken for one."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import duplicates
from mnist_ocr.labelling.duplicates import DuplicateFinder, locate_duplicates
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.manifest import iterate_shards
from mnist_ocr.labelling.manifest_shard import read_shard
from mnist_ocr.storage import open_store


def find(tables: list[pa.Table]) -> dict[str, list[int]]:
    with DuplicateFinder() as finder:
        for table in tables:
            finder.add(table)
        return locate_duplicates(enumerate(tables), finder.find())


def build(*paths: str, etag: str = "e") -> pa.Table:
    return pa.table({"path": list(paths), "etag": [etag] * len(paths)})


def test_same_path_is_found_in_whichever_shards_it_is() -> None:
    """Also within one, more than twice, and if the object has changed in between."""
    assert find([build("a", "b"), build("c", "d")]) == {}
    tables = [build("a", "b", "a"), build("c", "b", etag="f"), build("d"), build("b")]
    assert find(tables) == {"a": [0, 0], "b": [0, 1, 3]}
    assert find([]) == {}


def test_many_are_found_among_many() -> None:
    """Whatever file their hashes are in."""
    names = [f"{i}.png" for i in range(10_000)]
    tables = [build(*names[start : start + 1000]) for start in range(0, 10_000, 900)]
    assert set(find(tables)) == {name for i, name in enumerate(names) if i >= 900 and i % 900 < 100}


def test_hash_that_two_objects_share_is_no_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hashes suspect is confirmed by the paths."""
    monkeypatch.setattr(duplicates, "_hash", lambda names: np.zeros(len(names), np.uint64))
    assert find([build("a", "b"), build("c", "b")]) == {"b": [0, 1]}


def pack_namesakes() -> bytes:
    """A tar of three members, two of one name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.png", "b.png", "a.png"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", b"a.png\nb.png\na.png\n"),
        ("scans.tar", pack_namesakes()),
        ("tars.txt", b"x.tar\nx.tar\n"),
    ],
)
def test_lines_and_members_may_share_a_path(name: str, content: bytes, tmp_path: Path) -> None:
    """A list may name an object twice, and a tar may hold two members of one name."""
    (tmp_path / name).write_bytes(content)
    (tmp_path / "x.tar").write_bytes(pack_namesakes())
    output = open_store(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    shards = iterate_shards(open_source(str(tmp_path / name)), output, shard_size=2)
    tables = [read_shard(output, shard).table for shard in shards]
    paths = [path for table in tables for path in table["path"].to_pylist()]
    assert len(set(paths)) < len(paths)
    assert find(tables) == {}
    assert find([*tables, tables[0]]) != {}


def test_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bytes an object have to go somewhere."""
    with DuplicateFinder() as finder:
        full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115, PTH123 - closed with the finder
        monkeypatch.setattr(finder, "_files", [full] * len(finder._files))
        with full, pytest.raises(UsageError, match=r"No space left on device\. Make room there"):
            finder.add(build("a"))
