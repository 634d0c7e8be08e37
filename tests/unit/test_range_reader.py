"""An object as a file: the same bytes as a file's, in few requests."""

import io
from pathlib import Path

import numpy as np
import pytest
from archives import pack_tar, write_containers

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling import range_reader
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.range_reader import RangeReader


class Requests:
    """A ranged read that remembers what it was asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.made: list[tuple[int, int]] = []

    def __call__(self, start: int, length: int) -> bytes:
        """Bytes of the content."""
        assert length > 0
        self.made.append((start, length))
        return self.content[start : start + length]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests so small that test data needs many."""
    monkeypatch.setattr(range_reader, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(range_reader, "JUMP_BYTES", 512)
    monkeypatch.setattr(range_reader, "MAX_SKIP_BYTES", 256)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 50_000])
def test_reads_what_a_file_would(size: int) -> None:
    """Wherever it is searched, and past the end; no request reaches past it."""
    generator = np.random.default_rng(size)
    content = generator.bytes(size)
    requests = Requests(content)
    file, reader = io.BytesIO(content), RangeReader(requests, size)
    for _ in range(500):
        if generator.random() < 0.4:
            near = max(file.tell() - 300, 0), file.tell() + 600
            place = int(generator.integers(*[(0, size + 100), near][generator.integers(2)]))
            whence = int(generator.integers(0, 3))
            offset = place - (0, file.tell(), size)[whence]
            assert file.seek(offset, whence) == reader.seek(offset, whence)
        num_bytes = int(generator.choice([0, 1, 30, 512, 5000]))
        assert file.read(num_bytes) == reader.read(num_bytes)
        assert file.tell() == reader.tell()
    assert all(start + length <= size for start, length in requests.made)


@pytest.mark.usefixtures("tiny")
def test_reading_on_takes_chunks_and_a_jump_little() -> None:
    """Small members are read along, large ones jumped over."""
    requests = Requests(bytes(100_000))
    reader = RangeReader(requests, 100_000)
    for _ in range(400):
        reader.read(100)
    assert requests.made == [(start, 4096) for start in range(0, 40_000, 4096)]
    requests.made.clear()
    reader.seek(-22, io.SEEK_END)
    reader.read(22)
    reader.seek(-200, io.SEEK_END)
    reader.read(100)
    reader.seek(60_000)
    reader.read(100)
    assert requests.made == [(99_488, 512), (60_000, 512)]


def test_small_object_is_one_request() -> None:
    """However it is searched."""
    requests = Requests(bytes(100_000))
    reader = RangeReader(requests, 100_000)
    for place in (99_900, 5, 40_000):
        reader.seek(place)
        reader.read(100)
    assert requests.made == [(0, 100_000)]


def test_cut_archive_larger_than_a_request_is_truncated(tmp_path: Path) -> None:
    """Its last member would end past the end of the file."""
    content = pack_tar({f"{i}.png": bytes(1_200_000) for i in range(9)})[:9_600_000]
    (tmp_path / "a.tar").write_bytes(content)
    infos = list(open_source(str(tmp_path)).list())
    assert [info.name for info in infos] == [*(f"a.tar::{i}.png" for i in range(7)), "a.tar"]
    assert Locator.parse(infos[-1].etag).status == "truncated"


def test_nobody_reads_more_than_an_image_may_have() -> None:
    """A damaged header may ask for any number of bytes."""
    reader = RangeReader(Requests(b""), MAX_BYTES + 1)
    with pytest.raises(ObjectError, match="at once") as caught:
        reader.read(MAX_BYTES + 1)
    assert caught.value.status == "too_large"


@pytest.mark.usefixtures("tiny")
def test_archives_larger_than_a_request(tmp_path: Path) -> None:
    """Listed and read the same, a piece at a time."""
    images = np.random.default_rng(0).integers(0, 255, (60, 28, 28), np.uint8)
    paths = write_containers(tmp_path, images)
    (tmp_path / "large.tar").write_bytes(pack_tar({f"{i}": bytes(i * 997) for i in range(20)}))
    for name in [*paths, "large.tar"]:
        source = open_source(str(tmp_path / name))
        infos = list(source.list())
        assert len(infos) == (20 if name == "large.tar" else 60)
        for info, content in zip(infos, source.read_many(infos), strict=True):
            assert not isinstance(content, ObjectError), (name, info, content)
            assert info.size in (-1, len(content) if isinstance(content, bytes) else content.size)
