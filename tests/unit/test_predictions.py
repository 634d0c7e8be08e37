"""The output contract."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.labelling.predictions import SCHEMA, build_table, decode_table, encode_table


@pytest.fixture
def table() -> pa.Table:
    """Four rows: sure, unsure, unreadable, and sure of what is no digit."""
    return build(threshold=0.99)


def build(threshold: float | None) -> pa.Table:
    probabilities = np.full((4, 10), 0.001, np.float32)
    probabilities[0, 7], probabilities[1, 2], probabilities[2] = 0.991, 0.5, np.nan
    predictions = Predictions.build(
        probabilities,
        np.array([0.992, 0.51, np.nan, 0.999], np.float32),
        ["ok", "ok", "empty", "not_a_digit"],
        [None, None, "The file is empty.", "No digit."],
    )
    ids, paths = pa.chunked_array([[5, 6, 7, 8]]), pa.chunked_array([["a", "b", "c", "d"]])
    return build_table(ids, paths, predictions, threshold)


def test_rows_say_what_was_read(table: pa.Table) -> None:
    """Digit, confidence and probabilities are null just where nothing was read."""
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert [row["digit"] for row in rows] == [7, 2, None, 0]
    assert [row["accepted"] for row in rows] == [True, False, False, False]
    assert [row["confidence"] for row in rows] == [
        np.float32(0.992),
        np.float32(0.51),
        None,
        np.float32(0.999),
    ]
    assert rows[2]["probabilities"] is None
    assert [row["status"] for row in rows] == ["ok", "ok", "empty", "not_a_digit"]
    assert [row["error"] for row in rows] == [None, None, "The file is empty.", "No digit."]


def test_without_a_threshold_no_row_is_accepted() -> None:
    """A risk that cannot be promised accepts nothing, however sure."""
    assert not any(build(threshold=None)["accepted"].to_pylist())


def test_threshold_itself_is_accepted() -> None:
    """As it was stored, in single precision."""
    assert build(threshold=float(np.float32(0.992)))["accepted"].to_pylist()[0]


def test_file_gives_rows_and_metadata_back(table: pa.Table) -> None:
    """The schema survives the file, the metadata are of the file."""
    data = encode_table(table, {"job_id": "x"})
    read, metadata = decode_table(data)
    assert read.equals(table)
    assert metadata == {"job_id": "x"}
    assert pq.ParquetFile(io.BytesIO(data)).schema_arrow.remove_metadata().equals(SCHEMA)


def test_part_of_a_file_is_no_file(table: pa.Table) -> None:
    """A truncated file is an error, never fewer rows."""
    data = encode_table(table, {})
    with pytest.raises(pa.ArrowInvalid):
        decode_table(data[:-10])
