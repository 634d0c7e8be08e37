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
    """Three rows: sure, unsure, unreadable."""
    probabilities = np.full((3, 10), 0.001, np.float32)
    probabilities[0, 7], probabilities[1, 2], probabilities[2] = 0.991, 0.5, np.nan
    predictions = Predictions.from_probabilities(
        probabilities, ["ok", "ok", "empty"], [None, None, "The file is empty."]
    )
    ids, paths = pa.chunked_array([[5, 6, 7]]), pa.chunked_array([["a", "b", "c"]])
    return build_table(ids, paths, predictions, min_confidence=0.99)


def test_rows_say_what_was_read(table: pa.Table) -> None:
    """Digit, confidence and probabilities are null just where nothing was read."""
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert [row["digit"] for row in rows] == [7, 2, None]
    assert [row["accepted"] for row in rows] == [True, False, False]
    assert [row["confidence"] for row in rows] == [np.float32(0.991), 0.5, None]
    assert rows[2]["probabilities"] is None
    assert [row["status"] for row in rows] == ["ok", "ok", "empty"]
    assert [row["error"] for row in rows] == [None, None, "The file is empty."]


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
