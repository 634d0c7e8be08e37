"""One shard: what is fetched, and how often."""

from collections import Counter
from pathlib import Path

import pytest

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import manifest
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.shards import read_images
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import open_store


class CountingStore(LocalStore):
    """A folder that counts how often each object is read."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.reads: Counter[str] = Counter()

    def read(self, name: str, etag: str = "", max_bytes: int | None = None) -> bytes:
        """Count."""
        self.reads[name] += 1
        return super().read(name, etag, max_bytes)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two small files and a huge one, which takes no space."""
    (tmp_path / "scans").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "scans" / name).write_bytes(b"x")
    with (tmp_path / "scans/huge.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    return tmp_path / "scans"


def list_first_shard(source: FolderSource, output: Path) -> manifest.ManifestShard:
    output.mkdir()
    store = open_store(str(output))
    list(manifest.iterate_shards(source, store, shard_size=10))
    return manifest.read_shard(store, 0)


def test_each_object_is_fetched_once_and_huge_ones_never(scans: Path, tmp_path: Path) -> None:
    """The size in the manifest is reason enough."""
    store = CountingStore(str(scans))
    source = FolderSource(store)
    batch, traffic = read_images(source, list_first_shard(source, tmp_path / "out"))
    assert (traffic.num_requests, traffic.num_bytes) == (2, 2)
    assert store.reads == {"a.png": 1, "b.png": 1}
    assert batch.status == ["not_an_image", "not_an_image", "too_large"]


def test_input_that_this_machine_does_not_have_stops_the_shard(scans: Path, tmp_path: Path) -> None:
    """Another node's folder is no reason for rows that say `missing`."""
    source = FolderSource(LocalStore(str(scans)))
    shard = list_first_shard(source, tmp_path / "out")
    scans.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="There is no "):
        read_images(source, shard)
