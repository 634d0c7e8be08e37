"""Listing in lanes on real S3 servers: what a serial listing finds, once."""

import pytest
from services import S3Server

from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.lanes import Lane, Listing
from mnist_ocr.storage import ObjectInfo, Store, open_store

NUM_KEYS = 4000

ODD_KEYS = [
    "a b.png",
    "a%20b.png",
    "a+b.png",
    "a//b.png",
    "a/../b.png",
    "a&<b>.png",
    "dir/",
    "é.png",
    "数字/七.png",
    "\U0001f600.png",
    "x" * 1017,  # with its folder 1,024 bytes
]


def list_serially(store: Store) -> list[ObjectInfo]:
    return [info for page in store.list() for info in page]


def list_in_lanes(store: Store, frontier: list[Lane], num_objects: int) -> list[ObjectInfo]:
    """Split at every opportunity, and taken up anew from its frontier in between."""
    source = FolderSource(store)
    taken: list[ObjectInfo] = []
    while frontier:
        with Listing(source, frontier) as listing:
            for _ in range(4):
                taken += listing.take(num_objects)
                listing.split()
            frontier = listing.frontier
    return taken


def test_many_keys_are_each_listed_once(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flat folder and nested ones, in eight lanes at once: the same objects, sizes and etags."""
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    scans = rclone_server.make_bucket("many") / "scans"
    scans.mkdir()
    for i in range(NUM_KEYS):
        name = f"{i % 7}/cam {i % 11}/{i:x}.png" if i % 4 == 0 else f"img_{i:07d}.png"
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        (scans / name).write_bytes(b"x" * (i % 3))
    store = open_store("s3://many/scans")
    found = list_serially(store)
    assert len(found) == NUM_KEYS
    ends = [None, *found[NUM_KEYS // 8 :: NUM_KEYS // 8]]
    frontier = [
        Lane(after, until.name if until else "")
        for after, until in zip(ends, [*ends[1:], None], strict=True)
    ]
    assert sorted(list_in_lanes(store, frontier, NUM_KEYS // 5)) == sorted(found)
    source = FolderSource(store)  # rclone starts anew behind what is no key: one lane, and not two
    assert source.find_split(found[0], "") == ""
    assert source.max_lanes == 1


def test_odd_keys_are_each_listed_once(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes split among keys that are no paths, in any script, and as long as may be."""
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    client = moto_server.client()
    client.create_bucket(Bucket="odd-lanes")
    keys = ODD_KEYS + [f"{c}/{i}.png" for c in "a数é" for i in range(10)]
    for key in keys:
        client.put_object(Bucket="odd-lanes", Key=f"scans/{key}", Body=key.encode())
    store = open_store("s3://odd-lanes/scans")
    found = list_serially(store)
    assert [info.name for info in found] == sorted(keys)
    for num_objects in (1, 5):
        assert sorted(list_in_lanes(store, [Lane()], num_objects)) == found
