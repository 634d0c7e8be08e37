"""Listing in lanes: every name exactly once, in an order that does not depend on the threads."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from archives import pack_tar
from hypothesis import given
from hypothesis import strategies as st
from simulated_store import NumberedNames, SimulatedStore

from mnist_ocr.errors import StorageUnreachableError
from mnist_ocr.labelling import lanes
from mnist_ocr.labelling.archives import find_format
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.key_ranges import find_split
from mnist_ocr.labelling.lanes import Lane, Listing
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import ObjectInfo

RUN_LENGTH = 3

characters = st.characters(exclude_categories=["Cs"])
names = st.one_of(
    st.text("ab/0 \n", min_size=1, max_size=6),
    st.text(characters, min_size=1, max_size=6),
    st.integers(0, 300).map("img_{:05d}.png".format),
    st.integers(0, 9).map(lambda i: "x" * 1023 + str(i)),
).filter(lambda name: not find_format(name))  # which would be read
sorted_names = st.sets(names, max_size=60).map(lambda found: sorted(found, key=str.encode))


@pytest.fixture(autouse=True, scope="module")
def short_runs() -> Iterator[None]:
    """Three entries, and not 128, are a lane's turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "RUN_LENGTH", RUN_LENGTH)
        yield


def take_all(
    source: FolderSource, frontier: Sequence[Lane], num_objects: int
) -> list[tuple[list[str], list[Lane]]]:
    """Shards and the frontier behind each, with as many lanes as can be had."""
    shards = []
    with Listing(source, frontier) as listing:
        while True:
            listing.split()
            taken = listing.take(num_objects)
            if not taken:
                return shards
            shards.append(([info.name for info in taken], listing.frontier))


@given(sorted_names, st.integers(1, 9), st.integers(1, 9), st.integers(1, 20))
def test_every_name_once_and_resumed_anywhere_alike(
    found: list[str], page_size: int, max_lanes: int, num_objects: int
) -> None:
    """Whatever the names, pages and lanes; cut off behind any shard, the rest is the same."""
    source = FolderSource(SimulatedStore(found, page_size=page_size, max_lanes=max_lanes))
    shards = take_all(source, [Lane()], num_objects)
    taken = [name for shard, _ in shards for name in shard]
    assert sorted(taken, key=str.encode) == found
    assert all(len(shard) == num_objects for shard, _ in shards[:-1])
    for i, (_, frontier) in enumerate(shards):
        assert take_all(source, frontier, num_objects) == shards[i + 1 :]


@given(st.data(), sorted_names, st.integers(1, 5), st.integers(1, 9))
def test_arrivals_and_deletions_disturb_nothing(
    data: st.DataObject, found: list[str], page_size: int, num_objects: int
) -> None:
    """What was there all the time is listed once, nothing twice; lanes may end at gone names."""
    store = SimulatedStore(found, page_size=page_size, max_lanes=8)
    present, always, taken = set(found), set(found), []
    with Listing(FolderSource(store), [Lane()]) as listing:
        while True:
            listing.split()
            rows = listing.take(num_objects)
            taken += [info.name for info in rows]
            if not rows:
                break
            if data.draw(st.booleans()):
                gone = set(data.draw(st.lists(st.sampled_from(sorted(always)), max_size=5)))
                present = (present - gone) | set(data.draw(st.lists(names, max_size=5)))
                always -= gone
                store.names = sorted(present, key=str.encode)
            if not always:
                break
    assert len(set(taken)) == len(taken)
    if always:
        assert always <= set(taken)


@given(sorted_names.filter(lambda found: len(found) > 1), st.data())
def test_split_is_a_name_between_for_few_probes(found: list[str], data: st.DataObject) -> None:
    """One that exists, behind the first and before the last; at most 32 requests."""
    first = data.draw(st.integers(0, len(found) - 2))
    last = data.draw(st.integers(first + 1, len(found)))
    until = found[last] if last < len(found) else ""
    store = SimulatedStore(found)

    def find_next(name: str) -> str:
        return next((i.name for page in store.list("", name, page_size=1) for i in page), "")

    split = find_split(find_next, "", found[first], until)
    assert split in ["", *found[first + 1 : last]]
    assert store.num_probes <= 32
    is_plain = all(name.isascii() and not set(" \n") & set(name) for name in found)
    if is_plain and last - first > 1 and len(found[last - 1]) < 500:
        assert split


@pytest.mark.parametrize(
    ("found", "after", "split"),
    [
        (["大/0", "大/1", "天/0"], "大/0", "天/0"),  # by way of the surrogates
        (NumberedNames(10**7), "img_00001234.png", "img_05000000.png"),
        ([f"{i:032x}" for i in range(0, 16**32, 16**30)], f"{0:032x}", "a" + "0" * 31),
        (
            sorted(f"2026/{c}/{i}" for c in "一二三四五六七" for i in range(9)),
            "2026/一/0",
            "2026/四/0",
        ),
    ],
)
def test_split_is_about_in_the_middle(found: Sequence[str], after: str, split: str) -> None:
    """Of numbers, of hexadecimal digits, of names that are not ASCII."""
    store = SimulatedStore(found)
    assert FolderSource(store).find_split(ObjectInfo(after, 0, ""), "") == split


def test_flat_prefix_of_millions_is_listed_by_all_lanes() -> None:
    """Five million names: the lanes are of like length after a few shards, and probes are few."""
    store = SimulatedStore(NumberedNames(5_000_000))
    with Listing(FolderSource(store), [Lane()]) as listing:
        rows = listing.take(1000)
        for _ in range(8):
            listing.split()
            rows += listing.take(1000)
        frontier = listing.frontier
    numbers = [[int(name[4:-4] or 5e6) for name in (after.name, until or "img_.png")]
               for after, until in frontier if after]  # fmt: skip
    lengths = [until - after for after, until in numbers]
    assert len(lengths) == 32
    assert sum(lengths) == pytest.approx(5_000_000 - len(rows), abs=32)
    assert max(lengths) < 5_000_000 / 10
    assert store.num_probes < 31 * 15


def test_first_objects_take_one_page_and_no_probe() -> None:
    """A listing is split when that is asked for, and fetches one page ahead."""
    store = SimulatedStore(NumberedNames(10_000))
    with Listing(FolderSource(store), [Lane()]) as listing:
        listing.take(10)
    assert store.num_pages <= 2
    assert store.num_probes == 0


def test_turns_go_round() -> None:
    """A run of each lane after the other: requests for neighbours in a shard go to all of them."""
    store = SimulatedStore(NumberedNames(1000), max_lanes=4)
    source = FolderSource(store)
    frontier = [Lane(None, "img_00000499.png"), Lane(ObjectInfo("img_00000499.png", 0, ""))]
    with Listing(source, frontier) as listing:
        taken = [int(info.name[4:-4]) for info in listing.take(4 * RUN_LENGTH)]
    assert taken == [0, 1, 2, 500, 501, 502, 3, 4, 5, 503, 504, 505]


class LanedFolder(LocalStore):
    """A folder that is listed in lanes as a bucket is."""

    max_lanes = 4


@pytest.mark.parametrize("num_objects", [1, 2, 3, 7, 100])
def test_archives_stay_together(num_objects: int, tmp_path: Path) -> None:
    """Their members follow one another, also resumed within one and with lanes split around it."""
    expected = set()
    for i in range(6):
        members = {f"{j}.png": b"x" for j in range(5)} | {"notes.txt": b"x"}
        (tmp_path / f"{i}.tar").write_bytes(pack_tar(members))
        (tmp_path / f"{i}.png").write_bytes(b"x")
        expected |= {f"{i}.png", *(f"{i}.tar::{j}.png" for j in range(5))}
    (tmp_path / "3.zip").write_bytes(b"no zip")
    source = FolderSource(LanedFolder(str(tmp_path)), (".png",))
    shards = take_all(source, [Lane()], num_objects)
    taken = [name for shard, _ in shards for name in shard]
    assert sorted(taken) == sorted(expected | {"3.zip"})
    for i in range(6):
        start = taken.index(f"{i}.tar::0.png")
        assert taken[start : start + 5] == [f"{i}.tar::{j}.png" for j in range(5)]
    for i, (_, frontier) in enumerate(shards):
        assert take_all(source, frontier, num_objects) == shards[i + 1 :]


def test_lane_is_left_at_the_end_of_an_archive(tmp_path: Path) -> None:
    """Archives of two lanes take turns, though none ends at the end of a run."""
    for name in ("a1", "a2", "a3", "b1", "b2", "b3"):
        members = {f"{j}.png": b"x" for j in range(6)}
        (tmp_path / f"{name}.tar").write_bytes(pack_tar(members))
    source = FolderSource(LanedFolder(str(tmp_path)))
    frontier = [Lane(None, "a3.tar"), Lane(ObjectInfo("a3.tar", 0, ""))]
    with Listing(source, frontier) as listing:
        archives = [info.name[:2] for info in listing.take(36)]
    assert archives[::6] == ["a1", "b1", "a2", "b2", "a3", "b3"]


def test_names_that_are_left_out_hold_nobody_up() -> None:
    """A lane in which nothing is chosen has its turns, too, and is on record where it is."""
    found = sorted([f"a{i:04d}.txt" for i in range(900)] + [f"b{i:04d}.png" for i in range(100)])
    source = FolderSource(SimulatedStore(found, page_size=10), (".png",))
    frontier = [Lane(None, "a0899.txt"), Lane(ObjectInfo("a0899.txt", 0, ""))]
    with Listing(source, frontier) as listing:
        assert [info.name for info in listing.take(6)] == found[900:906]
        positions = [lane.after.name for lane in listing.frontier if lane.after]
    assert sorted(positions) == ["a0005.txt", "b0005.png"]


@pytest.mark.parametrize("num_requests", range(0, 40, 3))
def test_outage_ends_the_threads_and_the_frontier_goes_on(num_requests: int) -> None:
    """An error of any lane, page or probe is the listing's; what was taken is not listed again."""
    store = SimulatedStore(NumberedNames(200), page_size=10, max_lanes=8)
    source = FolderSource(store)
    whole = take_all(source, [Lane()], 16)
    store.num_pages = store.num_probes = 0
    store.num_requests_until_outage = num_requests
    taken, frontier = [], [Lane()]

    def take_until_outage() -> None:
        nonlocal frontier
        with Listing(source, frontier) as listing:
            while listing.frontier:
                listing.split()
                taken.append([info.name for info in listing.take(16)])
                frontier = listing.frontier

    with pytest.raises(StorageUnreachableError):
        take_until_outage()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("list_")]
    store.num_requests_until_outage = None
    taken += [shard for shard, _ in take_all(source, frontier, 16)]
    assert taken == [shard for shard, _ in whole]


def test_folder_marker_is_listed_once() -> None:
    """The key "scans/" below s3://bucket/scans/ has no name there; nothing comes before it."""
    source = FolderSource(SimulatedStore(["", "a", "b"], page_size=1))
    shards = take_all(source, [Lane()], 1)
    assert [shard for shard, _ in shards] == [[""], ["a"], ["b"]]
    assert take_all(source, shards[0][1], 1) == shards[1:]
