"""Damaged archives of every format: entries and reasons, never a crash, never without end."""

import time
from pathlib import Path

import numpy as np
import pytest
from archives import FORMATS, write_containers

from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling.inputs import open_source

NUM_IMAGES, NUM_CASES = 6, 40

MAX_SECONDS = 20
"""For all cases of a format, which take less than one."""


def damage(content: bytes, generator: np.random.Generator) -> bytes:
    """Flip up to 64 bytes, most of them near the start or the end, and cut a third of the files."""
    data = np.frombuffer(content, np.uint8).copy()
    places = generator.integers(0, len(data), int(2 ** generator.uniform(0, 6)))
    if generator.random() < 0.6:
        places = (places % 600) * generator.choice([-1, 1], len(places)) % len(data)
    data[places] = generator.integers(0, 256, len(places))
    if generator.random() < 1 / 3:
        start, end = np.sort(generator.integers(0, len(data), 2))
        data = data[start:] if generator.random() < 0.5 else data[:end]
    return data.tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_archive_gives_entries_and_reasons(name: str, tmp_path: Path) -> None:
    """Listed and read in bounded time, with one content or reason for each entry."""
    images = np.random.default_rng(0).integers(0, 255, (NUM_IMAGES, 28, 28), np.uint8)
    content = write_containers(tmp_path / "whole", images)[name].read_bytes()
    generator = np.random.default_rng(sum(name.encode()))
    started = time.monotonic()
    for case in range(NUM_CASES):
        (tmp_path / name).write_bytes(damage(content, generator))
        source = open_source(str(tmp_path / name))
        infos = list(source.list())
        assert 1 <= len(infos) < 1000, case
        assert all(-1 <= info.size < 2**63 for info in infos), case
        contents = list(source.read_many(infos))
        assert len(contents) == len(infos), case
        assert all(isinstance(c, bytes | np.ndarray | ObjectError) for c in contents), case
    assert time.monotonic() - started < MAX_SECONDS
