"""Damaged and arbitrary input of every kind: rows and sentences, no other exception, no crash.

The targets run in a child process, whose death is a failed test and not the run's. For longer:

    MNIST_OCR_FUZZ_EXAMPLES=100000 pytest tests/unit/test_fuzz.py --timeout 3600
"""

import csv
import faulthandler
import io
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from archives import FORMATS, write_containers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.errors import (
    DamagedOutputError,
    ObjectError,
    StorageUnreachableError,
    UsageError,
)
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.manifest import iterate_shards
from mnist_ocr.labelling.manifest_shard import read_shard, shard_name
from mnist_ocr.labelling.predictions import build_table, decode_table, encode_table, read_metadata
from mnist_ocr.redaction import redact
from mnist_ocr.storage import open_store, resolve_uri

NUM_EXAMPLES = int(os.environ.get("MNIST_OCR_FUZZ_EXAMPLES", "60"))

MAX_ENTRIES = 2000
"""More than any of these files can hold; those that claim more are bounded by their size."""

DIGIT = np.zeros((28, 28), np.uint8)
DIGIT[4:24, 12:16] = 255

edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)))
cuts = st.none() | st.floats(0, 1)


def damage(data: bytes, changes: list[tuple[float, bytes]], cut: float | None) -> bytes:
    """Overwrite some places, and keep a part only."""
    damaged = bytearray(data)
    for place, content in changes:
        start = int(place * len(damaged))
        damaged[start : start + len(content)] = content
    return bytes(damaged if cut is None else damaged[: int(cut * len(damaged))])


def encode(format_name: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(DIGIT).convert(mode).save(buffer, format_name)
    return buffer.getvalue()


IMAGES = [
    encode(format_name, mode)
    for format_name, modes in {
        "PNG": ("L", "1", "P", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "TIFF": ("L", "1", "RGBA", "I;16"),
        "BMP": ("L", "1", "RGB"),
        "GIF": ("L", "P"),
        "WEBP": ("RGB", "RGBA"),
    }.items()
    for mode in modes
]


@given(st.sampled_from(IMAGES), edits, cuts)
def decode_damaged_images(image: bytes, changes: list[tuple[float, bytes]], cut: float) -> None:
    """One status, and a sentence where it is not ok."""
    batch = prepare_images([damage(image, changes, cut)], 1)
    assert (batch.error[0] is None) == (batch.status[0] == "ok")


@given(st.sampled_from(IMAGES).map(lambda image: image[:4]), st.binary(max_size=300))
def decode_arbitrary_bytes(start: bytes, rest: bytes) -> None:
    """Also behind what makes a format."""
    for data in (rest, start + rest):
        assert prepare_images([data], 1).status[0] != "ok" or len(data) > 40


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=200)))
def canonicalize_arbitrary_pages(page: np.ndarray) -> None:
    """Any size, any content."""
    batch = prepare_images([page], 1)
    assert batch.status[0] in ("ok", "blank")
    assert np.isfinite(batch.trust).all()


def build_manifest() -> bytes:
    folder = Path(tempfile.mkdtemp(dir=FOLDER))
    for i in range(5):
        (folder / f"{i}é.png").write_bytes(b"x")
    output = open_store(str(folder / "out"))
    output.write("_job.json", b"")
    list(iterate_shards(open_source(str(folder)), output, shard_size=100))
    return output.read(shard_name(0))


@given(edits, cuts)
def read_damaged_manifests(changes: list[tuple[float, bytes]], cut: float) -> None:
    """A table that can be used, or an exception that says it is damaged."""
    output = open_store(str(FOLDER / "manifest"))
    output.write(shard_name(0), damage(MANIFEST, changes, cut))
    source = open_source(str(FOLDER))
    try:
        manifest = read_shard(output, 0)
        assert len(manifest.objects(source)) == len(manifest.table)
        assert manifest.frontier is not None
    except DamagedOutputError:
        return


def build_predictions() -> bytes:
    ids = pa.chunked_array([pa.array(range(9))])
    paths = pa.chunked_array([pa.array([f"/scans/{i}.png" for i in range(9)])])
    ones = np.full((9, 10), 0.1, np.float32)
    confidence = np.full(9, 0.9, np.float32)
    predictions = Predictions.build(ones, confidence, ["ok"] * 9, [None] * 9)
    return encode_table(build_table(ids, paths, predictions, 0.5), {"job_id": "1"})


@given(edits, cuts)
def read_damaged_predictions(changes: list[tuple[float, bytes]], cut: float) -> None:
    """A table, or an exception that says that the file is damaged."""
    data = damage(PREDICTIONS, changes, cut)
    for read in (decode_table, read_metadata):
        try:
            read(data)
        except ValueError:
            continue


@given(st.text(max_size=40), st.sampled_from(["", "s3://", "https://", "memory://", "a.tar::"]))
def resolve_arbitrary_uris(text: str, start: str) -> None:
    """One spelling of each, or a sentence; once redacted nothing more is."""
    assert redact(redact(start + text)) == redact(start + text)
    try:
        resolved = resolve_uri(start + text)
    except UsageError:
        return
    assert resolve_uri(resolved) == resolved


@given(
    st.sampled_from(["txt", "csv"]),
    st.binary(max_size=200)
    | st.lists(st.text(max_size=20).map("memory://{}".format)).map("\n".join).map(str.encode)
    | st.lists(st.lists(st.text(max_size=9), max_size=3)).map(lambda rows: write_csv(rows)),
)
def read_arbitrary_lists(ending: str, data: bytes) -> None:
    """A row for each line, or a sentence for the list."""
    (FOLDER / f"list.{ending}").write_bytes(data)
    try:
        source = open_source(str(FOLDER / f"list.{ending}"))
        infos = list(source.list())
        contents = list(source.read_many(infos))
    except (UsageError, StorageUnreachableError):
        return
    assert len(contents) == len(infos)


def write_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")


@given(st.sampled_from(FORMATS), edits, cuts)
def read_damaged_archives(name: str, changes: list[tuple[float, bytes]], cut: float) -> None:
    """A content or a reason for each entry; decoded they are rows."""
    (FOLDER / name).write_bytes(damage(CONTAINERS[name], changes, cut))
    source = open_source(str(FOLDER / name))
    infos = list(source.list())
    assert 1 <= len(infos) <= MAX_ENTRIES
    assert all(Locator.parse(info.etag) is not None for info in infos)
    contents = list(source.read_many(infos))
    assert all(isinstance(each, bytes | np.ndarray | ObjectError) for each in contents)
    assert len(prepare_images(contents, len(infos)).status) == len(infos)


TARGETS: dict[str, Callable[[], None]] = {
    target.__name__: target
    for target in (
        decode_damaged_images,
        decode_arbitrary_bytes,
        canonicalize_arbitrary_pages,
        read_damaged_manifests,
        read_damaged_predictions,
        resolve_arbitrary_uris,
        read_arbitrary_lists,
        read_damaged_archives,
    )
}


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Asks a child that has run all targets for one of them."""
    child = subprocess.run(
        [sys.executable, __file__],
        cwd=tmp_path_factory.mktemp("fuzz"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )

    def check(name: str) -> None:
        assert name in child.stdout.split(), child.stderr[-5000:]

    return check


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name: str, passed: Callable[[str], None]) -> None:
    """Nothing but what is expected, and the process lives."""
    passed(name)


if __name__ == "__main__":
    faulthandler.enable()
    FOLDER = Path.cwd()
    CONTAINERS = {
        name: path.read_bytes()
        for name, path in write_containers(FOLDER / "whole", np.stack([DIGIT] * 4)).items()
    }
    MANIFEST, PREDICTIONS = build_manifest(), build_predictions()
    fuzz = settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize="MNIST_OCR_FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    for name in sys.argv[1:] or TARGETS:
        try:
            fuzz(TARGETS[name])()
        except Exception:
            traceback.print_exc()
        else:
            print(name, flush=True)  # noqa: T201
