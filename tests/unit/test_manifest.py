"""The manifest: frozen shards, and a listing that can be cut off anywhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_store import NumberedNames, SimulatedStore

from mnist_ocr.errors import (
    DamagedOutputError,
    ObjectError,
    StorageUnreachableError,
    UsageError,
)
from mnist_ocr.labelling import manifest
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.manifest_shard import decode_shard
from mnist_ocr.labelling.sources import Source
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import ObjectInfo, Store, open_store


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A folder of ten files."""
    (tmp_path / "scans").mkdir()
    for i in range(10):
        (tmp_path / f"scans/{i}.png").write_bytes(b"x" * (i + 1))
    return FolderSource(open_store(str(tmp_path / "scans")))


@pytest.fixture
def output(tmp_path: Path) -> Store:
    """An output folder."""
    (tmp_path / "out").mkdir()
    return open_store(str(tmp_path / "out"))


def iterate(source: Source, output: Store, **options: object) -> list[int]:
    options = {"shard_size": 4, **options}
    return list(manifest.iterate_shards(source, output, **options))


def rows_of(source: Source, output: Store) -> list[tuple[int, str]]:
    """(id, name) of every row on record."""
    rows = []
    for shard in manifest.list_shards(output):
        found = manifest.read_shard(output, shard)
        names = [info.name for info in found.objects(source)]
        rows += zip(found.table["id"].to_pylist(), names, strict=True)
    return rows


def test_listing_becomes_shards_of_fixed_size(source: Source, output: Store) -> None:
    """Ids count the objects in listing order; the totals are on record at the end."""
    assert iterate(source, output) == [0, 1, 2]
    assert rows_of(source, output) == [(i, f"{i}.png") for i in range(10)]
    assert manifest.read_totals(output) == {"num_shards": 3, "num_images": 10}
    sizes = [info.size for info in manifest.read_shard(output, 2).objects(source)]
    assert sizes == [9, 10]


def test_first_shards_are_smaller() -> None:
    """They double in pairs up to the job's shard size, which may be smaller from the start."""
    sizes = [manifest.size_of_shard(shard, 8192) for shard in range(10)]
    assert sizes == [1024, 1024, 2048, 2048, 4096, 4096, 8192, 8192, 8192, 8192]
    assert {manifest.size_of_shard(shard, 64) for shard in (0, 1, 10_000_000)} == {64}


def test_shard_is_on_record_before_it_is_handed_out(source: Source, output: Store) -> None:
    """Whoever gets a shard number can read the shard."""
    for shard in manifest.iterate_shards(source, output, shard_size=4):
        assert manifest.list_shards(output)[-1] == shard


@pytest.mark.parametrize("num_before", [0, 1, 2, 3])
def test_cut_off_listing_goes_on_where_it_was(
    num_before: int, source: Source, output: Store
) -> None:
    """Shards on record are handed out again as they are; no object is in two."""
    listing = manifest.iterate_shards(source, output, shard_size=4)
    for _ in range(num_before):
        next(listing)
    listing.close()
    before = {shard: output.read(manifest.shard_name(shard)) for shard in range(num_before)}
    assert iterate(source, output) == [0, 1, 2]
    assert rows_of(source, output) == [(i, f"{i}.png") for i in range(10)]
    for shard, content in before.items():
        assert output.read(manifest.shard_name(shard)) == content


@pytest.fixture
def bucket() -> SimulatedStore:
    """A hundred names, listed in up to eight lanes."""
    return SimulatedStore(NumberedNames(100), page_size=10, max_lanes=8)


def copy_manifest(output: Store) -> list[bytes]:
    return [output.read(manifest.shard_name(shard)) for shard in manifest.list_shards(output)]


def test_lanes_cut_off_anywhere_go_on_where_they_were(
    bucket: SimulatedStore, tmp_path: Path
) -> None:
    """The last manifest shard alone says where: the manifest is that of one run, to the byte."""
    source = FolderSource(bucket)
    (tmp_path / "whole").mkdir()
    whole = open_store(str(tmp_path / "whole"))
    shards = iterate(source, whole)
    assert sorted(name for _, name in rows_of(source, whole)) == list(bucket.names)
    assert [id_ for id_, _ in rows_of(source, whole)] == list(range(100))
    assert max(len(manifest.read_shard(whole, shard).frontier) for shard in shards) == 8
    for num_before in range(len(shards)):
        (tmp_path / f"{num_before}").mkdir()
        output = open_store(str(tmp_path / f"{num_before}"))
        for shard in range(num_before):
            name = manifest.shard_name(shard)
            output.write(name, whole.read(name))
        assert iterate(source, output) == shards
        assert copy_manifest(output) == copy_manifest(whole)


@pytest.mark.parametrize("num_requests", [0, 1, 2, 5, 11, 23, 31])
def test_outage_in_the_listing_keeps_what_is_on_record(
    num_requests: int, bucket: SimulatedStore, output: Store
) -> None:
    """The error says so; the same command goes on, and the result is whole."""
    bucket.num_requests_until_outage = num_requests
    source = FolderSource(bucket)
    with pytest.raises(StorageUnreachableError, match="No usable answer for simulated://bucket"):
        iterate(source, output)
    assert manifest.read_totals(output) is None
    before = copy_manifest(output)
    bucket.num_requests_until_outage = None
    iterate(source, output)
    assert copy_manifest(output)[: len(before)] == before
    assert sorted(name for _, name in rows_of(source, output)) == list(bucket.names)


def test_first_shard_does_not_wait_for_the_listing(output: Store) -> None:
    """A page is enough for a small one, another is on its way; none is split before the fifth."""
    bucket = SimulatedStore(NumberedNames(10_000_000))
    shards = manifest.iterate_shards(FolderSource(bucket), output, shard_size=500)
    assert next(shards) == 0
    assert bucket.num_pages <= 2
    assert [next(shards) for _ in range(3)] == [1, 2, 3]
    assert bucket.num_probes == 0
    assert next(shards) == 4
    assert bucket.num_probes > 0
    shards.close()


def test_monitor_counts_what_is_listed(source: Source, output: Store) -> None:
    """A look sees new shards only; the last one is counted exactly when the listing has ended."""
    monitor = manifest.ListingMonitor(output, shard_size=4)
    monitor.look()
    assert (monitor.num_listed, monitor.has_ended) == (0, False)
    for shard in manifest.iterate_shards(source, output, shard_size=4):
        monitor.look()
        assert (monitor.num_listed, monitor.has_ended) == (4 * (shard + 1), False)
    monitor.look()
    assert (monitor.num_listed, monitor.has_ended) == (10, True)


def test_ended_listing_is_not_repeated(source: Source, output: Store, tmp_path: Path) -> None:
    """Objects that arrive after the listing are of another job; the source is not even asked."""
    iterate(source, output)
    (tmp_path / "scans/new.png").write_bytes(b"x")

    class Unlistable(LocalStore):
        def list(self, prefix: str = "", start_after: str = "") -> Iterator[list[ObjectInfo]]:
            raise AssertionError("listed again")

    assert iterate(FolderSource(Unlistable(source.uri)), output) == [0, 1, 2]


def test_extensions_choose_objects(source: Source, output: Store, tmp_path: Path) -> None:
    """The ending decides, in any case; what is left out gets no id."""
    (tmp_path / "scans/5.png").rename(tmp_path / "scans/5.PNG")
    (tmp_path / "scans/6.png").rename(tmp_path / "scans/6.txt")
    iterate(FolderSource(open_store(source.uri), (".png",)), output)
    assert [name for _, name in rows_of(source, output)] == [
        f"{i}.{'PNG' if i == 5 else 'png'}" for i in (0, 1, 2, 3, 4, 5, 7, 8, 9)
    ]


def test_nothing_to_label_is_said(source: Source, tmp_path: Path) -> None:
    """With the folder, and the extensions if any were asked for."""
    with pytest.raises(UsageError, match=r"with the extension \.jpg or \.tif under .*scans"):
        manifest.check_input(FolderSource(open_store(source.uri), (".jpg", ".tif")))
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"No objects under .*none\. Check the path\."):
        manifest.check_input(FolderSource(open_store(str(tmp_path / "none"))))


@pytest.mark.parametrize("num_before", [0, 1, 2, 3])
def test_file_names_that_are_not_utf8_can_be_read(
    num_before: int, source: Source, output: Store
) -> None:
    """The manifest spells them with escapes; listing resumes behind them, reading finds them."""
    for i in range(6):
        with open(f"{source.uri}/".encode() + b"7\xe9-%d.png" % i, "wb") as file:  # noqa: PTH123
            file.write(b"%d" % i)
    listing = manifest.iterate_shards(source, output, shard_size=4)
    for _ in range(num_before):
        next(listing)
    listing.close()
    iterate(source, output)
    assert len(rows_of(source, output)) == 16
    names = [name for _, name in rows_of(source, output)]
    assert names == sorted(names)
    store = open_store(source.uri)
    contents = [store.read(name) for name in names if name.startswith("7\udce9")]
    assert contents == [b"0", b"1", b"2", b"3", b"4", b"5"]
    paths = manifest.read_shard(output, 3).table["path"].to_pylist()
    assert all(path.isascii() for path in paths)


def test_emptied_input_is_not_a_finished_listing(
    source: Source, output: Store, tmp_path: Path
) -> None:
    """An unmounted disk must not end a job with no images."""
    for path in (tmp_path / "scans").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"No objects under .* any more"):
        iterate(source, output)
    assert manifest.read_totals(output) is None


class ForbiddenStore(LocalStore):
    """A folder in which some objects may not be read."""

    forbidden: tuple[str, ...] = ()

    def read(
        self, name: str, etag: str = "", max_bytes: int | None = None, size: int = -1
    ) -> bytes:
        """Refuse some."""
        if name in self.forbidden:
            raise ObjectError("forbidden", f"No permission to read {name}.")
        return super().read(name, etag, max_bytes)


def test_input_that_may_be_listed_but_not_read_is_said(source: Source) -> None:
    """Before a million rows say `forbidden`; a single forbidden object is a row."""
    store = ForbiddenStore(source.uri)
    store.forbidden = ("0.png",)
    manifest.check_input(FolderSource(store))
    store.forbidden = ("0.png", "1.png", "2.png")
    with pytest.raises(UsageError, match=r"May list .* but not read it"):
        manifest.check_input(FolderSource(store))


@pytest.mark.parametrize(
    "name", [r"a\udc80.png", "b\udc80.png", r"c\udc.png", "d\udcff\\udcff.png"]
)
def test_names_that_look_escaped_are_kept(name: str, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, the text that stands for them, and both."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(b"1")
    source, output = FolderSource(open_store(str(tmp_path / "in"))), open_store(str(tmp_path))
    assert list(manifest.iterate_shards(source, output, shard_size=10)) == [0]
    assert [info.name for info in manifest.read_shard(output, 0).objects(source)] == [name]


@pytest.mark.parametrize(
    ("lost", "is_complete", "message"),
    [
        (0, False, r"00000000\.arrow is missing\. Restore it"),
        (1, False, r"00000001\.arrow is missing\. Restore it from a copy\. If there is none, dele"),
        (1, True, r"00000001\.arrow is missing\. Restore it"),
        (2, True, r"counts 3 manifest shards, there are 2\. Restore it .* the number 00000002"),
    ],
)
def test_manifest_shard_that_is_gone_is_not_skipped(
    lost: int, is_complete: bool, message: str, source: Source, output: Store
) -> None:
    """Its objects would have no row: nothing is handed out, and nothing is listed."""
    iterate(source, output)
    output.delete(manifest.shard_name(lost))
    if not is_complete:
        output.delete(manifest.COMPLETE)
    with pytest.raises(DamagedOutputError, match=message):
        next(manifest.iterate_shards(source, output, shard_size=4))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_listing_is_done_again_from_a_lost_shard_on(
    lost: int, source: Source, output: Store, tmp_path: Path
) -> None:
    """As the message advises: what came behind is listed anew, with what is new in the input."""
    iterate(source, output)
    for shard in range(lost, 3):
        output.delete(manifest.shard_name(shard))
    output.delete(manifest.COMPLETE)
    (tmp_path / "scans/99.png").write_bytes(b"x")
    assert iterate(source, output) == [0, 1, 2]
    names = [f"{i}.png" for i in range(10)] + ["99.png"]
    assert rows_of(source, output) == list(enumerate(names))


def test_parts_without_their_manifest_shard_are_refused(source: Source, output: Store) -> None:
    """Listed anew, the shard may hold other objects than the part has rows of."""
    iterate(source, output)
    manifest.check_finished(output, [0, 1, 2])
    manifest.check_finished(output, [])
    output.delete(manifest.shard_name(2))
    output.delete(manifest.COMPLETE)
    manifest.check_finished(output, [0, 1])
    with pytest.raises(DamagedOutputError, match=r"00000002\.arrow is missing, though shard 000"):
        manifest.check_finished(output, [0, 1, 2])


def test_damaged_shard_is_said(source: Source, output: Store) -> None:
    """Whatever bit flips or is cut off; with advice."""
    iterate(source, output)
    data = bytearray(output.read(manifest.shard_name(1)))
    for position in range(len(data)):
        flipped = data.copy()
        flipped[position] ^= 1 << position % 8
        for content in (bytes(flipped), bytes(data[:position])):
            with pytest.raises(ValueError, match="its bytes do not have the sha256"):
                decode_shard(content)
    output.write(manifest.shard_name(1), bytes(data[:-1]))
    with pytest.raises(DamagedOutputError, match=r"00000001\.arrow is damaged: .* Restore it from"):
        manifest.read_shard(output, 1)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"num_shards": 1, "num_images": []}'])
def test_damaged_totals_are_said(content: bytes, source: Source, output: Store) -> None:
    """With what to do about it."""
    iterate(source, output)
    output.write(manifest.COMPLETE, content)
    with pytest.raises(DamagedOutputError, match=r"complete\.json is damaged .* Delete it and _S"):
        iterate(source, output)


def test_listing_that_was_given_up_cannot_replace_a_shard(source: Source, output: Store) -> None:
    """A process that was taken for dead, and goes on, finds what its successor has written."""
    stale = manifest.iterate_shards(source, output, shard_size=4)
    assert next(stale) == 0
    (Path(source.uri) / "35.png").write_bytes(b"new")
    expected = iterate(source, output)
    rows = rows_of(source, output)
    with pytest.raises(UsageError, match=r"00000001\.arrow was written by another command"):
        next(stale)
    assert rows_of(source, output) == rows
    assert expected == [0, 1, 2]
