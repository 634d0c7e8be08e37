"""What is new or has changed since a generation was made, whatever the listings and crashes."""

import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_ocr.errors import DamagedOutputError, UsageError
from mnist_ocr.labelling import manifest, manifest_shard, update
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.uri_lists import ListSource
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import ObjectInfo, Page, Store, open_store

Listing = Mapping[str, tuple[int, str]]
"""Name -> size, etag."""


class ListedStore(LocalStore):
    """A bucket that can only be listed."""

    def __init__(self, listing: Listing) -> None:
        super().__init__("/bucket")
        self.listing = listing

    def list(self, prefix: str = "", start_after: str = "", page_size: int = 3) -> Iterator[Page]:
        """In order."""
        infos = [ObjectInfo(name, *self.listing[name]) for name in sorted(self.listing)]
        infos = [info for info in infos if info.name > start_after]
        for start in range(0, len(infos), page_size):
            yield infos[start : start + page_size]


class DyingStore(LocalStore):
    """An output whose writer dies after so many writes."""

    num_writes = 0

    def write(self, name: str, data: bytes) -> None:
        """Write, or die."""
        if not self.num_writes:
            raise KeyboardInterrupt
        self.num_writes -= 1
        super().write(name, data)


def source_of(listing: Listing) -> FolderSource:
    return FolderSource(ListedStore(listing))


def rows_of(output: Store) -> list[tuple[int, str, int, str]]:
    """(id, name, size, etag) of every row on record."""
    tables = [manifest_shard.read_shard(output, n).table for n in manifest.list_shards(output)]
    rows = pa.concat_tables(tables).to_pylist()
    return [(r["id"], r["path"].removeprefix("/bucket/"), r["size"], r["etag"]) for r in rows]


def label_first(listing: Listing, folder: Path, shard_size: int) -> Store:
    """A first generation's manifest."""
    folder.mkdir()
    output = open_store(str(folder))
    list(manifest.iterate_shards(source_of(listing), output, shard_size=shard_size))
    return output


def apply(source: FolderSource | ListSource, base: Store, output: Store, shard_size: int) -> int:
    """One update; returns how many objects were new or had changed."""
    with update.find_changes(source, base, lambda num_listed: None) as changes:
        if num_changes := len(changes.objects):
            changes.write(base, output, shard_size, lambda num_objects: None)
    return num_changes


LISTINGS = st.dictionaries(
    st.text("abc/", min_size=1, max_size=3),
    st.tuples(st.integers(0, 2), st.sampled_from(["x", "y"])),
    min_size=1,
    max_size=30,
)


@given(
    listings=st.lists(LISTINGS, min_size=3, max_size=3),
    shard_size=st.integers(1, 7),
    num_writes=st.integers(0, 12),
)
@settings(max_examples=60)
def test_each_path_has_one_row(listings: list[Listing], shard_size: int, num_writes: int) -> None:
    """After a first listing, an update that dies, and one that sees yet another listing.

    Rows keep their ids; what is listed has its size and etag of now, what is gone those it had.
    """
    first, second, third = listings
    with tempfile.TemporaryDirectory() as folder:
        base = label_first(first, Path(folder, "base"), shard_size)
        before = rows_of(base)
        (new := Path(folder, "new")).mkdir()
        dying = DyingStore(str(new))
        dying.num_writes = num_writes
        is_done = False
        try:
            is_done = apply(source_of(second), base, dying, shard_size) > 0
        except KeyboardInterrupt:
            assert manifest.read_totals(dying) is None
        output, last = open_store(str(new)), second
        if not is_done:
            last = third
            if not apply(source_of(third), base, output, shard_size):
                assert third.items() <= first.items()
                return
        rows = rows_of(output)
        assert [row[0] for row in rows] == list(range(len(rows)))
        assert [row[:2] for row in rows[: len(before)]] == [row[:2] for row in before]
        found = {name: (size, etag) for _, name, size, etag in rows}
        assert len(found) == len(rows)
        assert found == {**first, **last}
        assert manifest.read_totals(output) == {
            "num_shards": len(manifest.list_shards(output)),
            "num_images": len(rows),
        }
        assert apply(source_of(last), output, base, shard_size) == 0


def test_new_objects_fill_shards_of_their_own(tmp_path: Path) -> None:
    """The base's shards keep their sizes; the others follow in the order of the names."""
    base = label_first({f"{i}": (1, "x") for i in range(5)}, tmp_path / "base", 4)
    listing = {f"{i}": (1, "x") for i in range(10, 20)} | {"3": (1, "y")}
    (tmp_path / "new").mkdir()
    output = open_store(str(tmp_path / "new"))
    assert apply(source_of(listing), base, output, 4) == 11
    sizes = [len(manifest_shard.read_shard(output, n).table) for n in manifest.list_shards(output)]
    assert sizes == [4, 1, 4, 4, 2]
    names = [row[1] for row in rows_of(output)]
    assert names == [str(i) for i in [*range(5), *range(10, 20)]]
    # whoever goes on with the listing finds that nothing is left
    assert list(manifest.iterate_shards(source_of({}), output, shard_size=4)) == [0, 1, 2, 3, 4]


def test_emptied_input_is_no_update(tmp_path: Path) -> None:
    """An unmounted disk is not taken for an input in which all is as it was."""
    base = label_first({"a": (1, "x")}, tmp_path / "base", 4)
    with pytest.raises(UsageError, match="No objects under /bucket any more"):
        apply(source_of({}), base, base, 4)


def test_rows_without_their_manifest_are_not_overwritten(tmp_path: Path) -> None:
    """A listing of another day would give them other paths."""
    base = label_first({"a": (1, "x")}, tmp_path / "base", 4)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/part-00000000.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match=r"has lost _manifest/complete\.json"):
        apply(source_of({"b": (1, "x")}), base, open_store(str(tmp_path / "new")), 4)


def test_members_of_the_same_name_keep_a_row_each(tmp_path: Path) -> None:
    """A tar that is replaced, with a name in it that stands there twice."""

    def list_members(etag: str, positions: list[int]) -> pa.Table:
        infos = [
            ObjectInfo("a.tar::x.png", 9, Locator(etag, str(position)).encode())
            for position in positions
        ]
        return manifest.tabulate(source_of({}), 0, infos)

    base = label_first({"z": (1, "x")}, tmp_path / "base", 4)
    base.write(
        manifest_shard.shard_name(0), manifest_shard.encode_rows(list_members("old", [512, 1536]))
    )
    (tmp_path / "new").mkdir()
    output = open_store(str(tmp_path / "new"))
    changes = update.Changes(list_members("new", [512, 2048, 4096]), frozenset())
    changes.write(base, output, 4, lambda num_objects: None)
    assert [row[0] for row in rows_of(output)] == [0, 1, 2]
    assert [row[3] for row in rows_of(output)] == ["new\t512", "new\t2048", "new\t4096"]


def test_row_of_an_archive_that_was_no_good_becomes_a_members(tmp_path: Path) -> None:
    """As soon as it is listed whole; until then it stays."""
    folder = tmp_path / "scans"
    folder.mkdir()
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for name in "abcd":
            archive.addfile(tarfile.TarInfo(f"{name}.png"))
    data = (tmp_path / "whole.tar").read_bytes()
    source = FolderSource(open_store(str(folder)))
    (folder / "z.png").touch()
    odd = "y::no member.png"
    (folder / odd).touch()

    def follow(base: Store | None, name: str, content: bytes) -> tuple[Store, list[str]]:
        (folder / "0.tar").write_bytes(content)
        (tmp_path / name).mkdir()
        output = open_store(str(tmp_path / name))
        if base:
            apply(source, base, output, 2)
        else:
            list(manifest.iterate_shards(source, output, shard_size=2))
        return output, [row[1].removeprefix(f"{folder}/") for row in rows_of(output)]

    first, names = follow(None, "first", data[: 512 + 100])
    assert names == ["0.tar::a.png", "0.tar", odd, "z.png"]
    second, names = follow(first, "second", data[: 1024 + 100])
    assert names == ["0.tar::a.png", "0.tar", odd, "z.png", "0.tar::b.png"]
    (folder / "1::new.png").touch()
    names = follow(second, "third", data)[1]
    assert names[:4] == ["0.tar::a.png", "0.tar::c.png", odd, "z.png"]
    assert names[4:] == ["0.tar::b.png", "0.tar::d.png", "1::new.png"]


@pytest.mark.parametrize("num_rows", [1, 2])
def test_archive_that_was_no_good_at_all_heals(num_rows: int, tmp_path: Path) -> None:
    """Its first member takes the row, and takes one only: nothing else has changed."""
    fault = ObjectInfo("a.tar", 0, Locator("", "", "", "truncated", "It ends.").encode())
    base = label_first({"z": (1, "x")}, tmp_path / "base", 4)
    old = manifest.tabulate(source_of({}), 0, [fault] * num_rows)
    base.write(manifest_shard.shard_name(0), manifest_shard.encode_rows(old))
    (tmp_path / "new").mkdir()
    output = open_store(str(tmp_path / "new"))
    member = ObjectInfo("a.tar::x.png", 9, Locator("e", "512").encode())
    objects = manifest.tabulate(source_of({}), 0, [member])
    healed = frozenset(update._find_faulty(old))
    update.Changes(objects, healed).write(base, output, 4, lambda num_objects: None)
    assert [row[1] for row in rows_of(output)] == ["a.tar::x.png", "a.tar"][:num_rows]


def test_line_inserted_into_a_list_is_the_only_new_one(tmp_path: Path) -> None:
    """Those behind it move by a line, and have not changed."""
    lines = [f"/scans/{i}.png" for i in range(6)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    store = open_store(str(tmp_path))
    (tmp_path / "base").mkdir()
    base = open_store(str(tmp_path / "base"))
    list(manifest.iterate_shards(ListSource(store, "list.txt"), base, shard_size=4))
    (tmp_path / "list.txt").write_text("\n".join(["/scans/new.png", *lines]))
    (tmp_path / "new").mkdir()
    output = open_store(str(tmp_path / "new"))
    assert apply(ListSource(store, "list.txt"), base, output, 4) == 1
    assert [row[1] for row in rows_of(output)] == [*lines, "/scans/new.png"]


@pytest.mark.parametrize("totals", [(1, 9), (1, 5), (1, 10**15), (1, -1), (2, 6)])
def test_wrong_totals_are_said(totals: tuple[int, int], tmp_path: Path) -> None:
    """Else objects that are on record would be taken for new ones."""
    listing = {f"{i}": (1, "x") for i in range(6)}
    base = label_first(listing, tmp_path / "base", 8)
    document = dict(zip(("num_shards", "num_images"), totals, strict=True))
    base.write("_manifest/complete.json", json.dumps(document).encode())
    with pytest.raises(DamagedOutputError, match=r"complete\.json counts .*, the manifest has"):
        apply(source_of(listing), base, base, 8)


def test_manifest_shard_in_the_place_of_another_is_said(tmp_path: Path) -> None:
    """Its objects would be in the new generation twice."""
    listing = {f"{i}": (1, "x") for i in range(6)}
    base = label_first(listing, tmp_path / "base", 2)
    base.write(manifest_shard.shard_name(1), base.read(manifest_shard.shard_name(0)))
    with pytest.raises(DamagedOutputError, match=r"00000001\.arrow does not hold the ids from 2"):
        apply(source_of({**listing, "new": (1, "x")}), base, base, 2)


def test_known_objects_take_sixteen_bytes_each(tmp_path: Path) -> None:
    """Beside a shard or two, however many there are."""
    base = label_first({f"{i:05d}": (1, "x") for i in range(3000)}, tmp_path / "base", 512)
    known, _ = update._read_known(base)
    assert known.nbytes == 16 * 3000
    assert (np.sort(known) == known).all()
