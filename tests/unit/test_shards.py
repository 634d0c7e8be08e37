"""One shard: what is fetched, and how often."""

from collections import Counter
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pytest

from mnist_ocr.digits import batch
from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import DamagedOutputError, UsageError
from mnist_ocr.labelling import manifest
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.manifest_shard import ManifestShard
from mnist_ocr.labelling.predictions import encode_table
from mnist_ocr.labelling.shards import MAX_FOOTER_BYTES, Receipt, read_images, read_receipts
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import open_store
from mnist_ocr.traffic import Traffic


class CountingStore(LocalStore):
    """A folder that counts how often each object is read."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.reads: Counter[str] = Counter()

    def read(
        self, name: str, etag: str = "", max_bytes: int | None = None, size: int = -1
    ) -> bytes:
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


def list_first_shard(source: FolderSource, output: Path) -> ManifestShard:
    output.mkdir()
    store = open_store(str(output))
    list(manifest.iterate_shards(source, store, shard_size=10))
    return manifest.read_shard(store, 0)


def test_each_object_is_fetched_once_and_huge_ones_never(scans: Path, tmp_path: Path) -> None:
    """The size in the manifest is reason enough."""
    store = CountingStore(str(scans))
    source = FolderSource(store)
    images, traffic = read_images(source, list_first_shard(source, tmp_path / "out"))
    assert (traffic.num_requests, traffic.num_bytes) == (2, 2)
    assert store.reads == {"a.png": 1, "b.png": 1}
    assert images.status == ["not_an_image", "not_an_image", "too_large"]


def test_input_that_this_machine_does_not_have_stops_the_shard(scans: Path, tmp_path: Path) -> None:
    """Another node's folder is no reason for rows that say `missing`."""
    source = FolderSource(LocalStore(str(scans)))
    shard = list_first_shard(source, tmp_path / "out")
    scans.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="There is no "):
        read_images(source, shard)


@pytest.mark.parametrize("error", [MemoryError, KeyError])
def test_shard_that_cannot_be_decoded_here_is_decoded_in_a_child(
    error: type[Exception], scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What memory or a bug ends in this process is no error of the job; all is fetched anew."""
    source = FolderSource(LocalStore(str(scans)))
    shard = list_first_shard(source, tmp_path / "out")

    def fail(data: bytes) -> NoReturn:
        raise error

    monkeypatch.setattr(batch, "decode_image", fail)
    images, traffic = read_images(source, shard)
    assert images.status == ["not_an_image", "not_an_image", "too_large"]
    assert traffic.num_requests == 4


@pytest.fixture
def parts(tmp_path: Path) -> LocalStore:
    """The Parquet files of two shards, one of them larger than what is read of it."""
    store = LocalStore(str(tmp_path / "out"))
    for shard, num_rows in enumerate((10, 60_000)):
        receipt = Receipt(shard, num_rows, 0, {"ok": num_rows}, Traffic(num_requests=num_rows))
        noise = np.random.default_rng(0).bytes(8 * num_rows)
        table = pa.table({"id": np.frombuffer(noise, np.int64)})
        metadata = {"job_id": "this", "receipt": receipt.encode()}
        store.write(manifest.part_name(shard), encode_table(table, metadata))
    return store


def test_receipts_are_read_from_the_ends_of_files(parts: LocalStore) -> None:
    """Whatever the size of a file, its last 64 KB are enough."""
    finished = manifest.list_finished_shards(parts)
    assert list(finished) == [0, 1]
    assert finished[1].size > 2 * MAX_FOOTER_BYTES
    requests = []
    parts.read_ranges = lambda ranges: (
        requests.extend(ranges) or LocalStore.read_ranges(parts, ranges)
    )
    receipts = list(read_receipts(parts, "this", list(finished.values())))
    assert [(r.shard, r.num_images, r.statuses) for r in receipts] == [
        (0, 10, {"ok": 10}),
        (1, 60_000, {"ok": 60_000}),
    ]
    assert max(wanted.length for wanted in requests) == MAX_FOOTER_BYTES


def test_damaged_file_is_named_with_the_remedy(parts: LocalStore) -> None:
    """One that was cut off, or is no Parquet, cannot pass for finished."""
    name = manifest.part_name(1)
    for content in (parts.read(name)[:-5], b"", b"x" * 100):
        parts.write(name, content)
        finished = manifest.list_finished_shards(parts)
        with pytest.raises(UsageError, match=rf"{name} is damaged: .* Delete it and run"):
            list(read_receipts(parts, "this", list(finished.values())))


def test_copy_of_another_part_cannot_pass_for_finished(parts: LocalStore) -> None:
    """Its rows would stand twice, and those of the shard whose name it has nowhere."""
    parts.write(manifest.part_name(1), parts.read(manifest.part_name(0)))
    finished = manifest.list_finished_shards(parts)
    with pytest.raises(DamagedOutputError, match=r"00000001\.parquet is a copy of part-00000000"):
        list(read_receipts(parts, "this", list(finished.values())))


def test_part_of_another_job_cannot_pass_for_finished(parts: LocalStore) -> None:
    """A worker of a generation that was pruned may come late."""
    finished = manifest.list_finished_shards(parts)
    with pytest.raises(DamagedOutputError, match=r"it is of another job\. Delete it"):
        list(read_receipts(parts, "other", list(finished.values())))
