"""The output contract."""

import io
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.labelling.predictions import (
    SCHEMA,
    build_table,
    decode_table,
    encode_table,
    find_faults,
    read_metadata,
)


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
    """The schema survives the file, the metadata are of the file, with its sha256."""
    data = encode_table(table, {"job_id": "x"})
    read, metadata = decode_table(data)
    assert read.equals(table)
    assert metadata == {"job_id": "x", "file_sha256": metadata["file_sha256"]}
    assert pq.ParquetFile(io.BytesIO(data)).schema_arrow.remove_metadata().equals(SCHEMA)


def test_sha256_is_that_of_the_file_with_zeros_in_its_place(table: pa.Table) -> None:
    """Anyone can compute it; it stands in the file once."""
    data = encode_table(table, {"job_id": "x"})
    digest = decode_table(data)[1]["file_sha256"].encode()
    assert data.count(digest) == 1
    assert sha256(data.replace(digest, b"0" * 64)).hexdigest().encode() == digest


def test_digest_is_found_behind_rows_that_look_like_it(table: pa.Table) -> None:
    """A path or a value of the metadata may hold anything, also what stands before the digest."""
    bait = f'"file_sha256": "{"0" * 64}"'
    paths = pa.chunked_array([[bait, "b", "c", bait]])
    rows = table.set_column(1, SCHEMA.field("path"), paths)
    read, metadata = decode_table(encode_table(rows, {"job_id": bait, "file_sha256": "old"}))
    assert read["path"].equals(paths)
    assert metadata["job_id"] == bait


def test_any_bit_that_flips_is_found(table: pa.Table) -> None:
    """In pages, statistics, footer, padding and the digest itself."""
    data = bytearray(encode_table(table, {"job_id": "x"}))
    bits = np.random.default_rng(0).integers(0, 8, len(data)).tolist()
    for position, bit in enumerate(bits):
        data[position] ^= 1 << bit
        with pytest.raises(ValueError, match="do not have the sha256"):
            decode_table(bytes(data))
        data[position] ^= 1 << bit
    decode_table(bytes(data))


def test_damaged_footer_is_one_kind_of_error(table: pa.Table) -> None:
    """Also where it then asks pyarrow for what that has not, such as longer integers."""
    whole = encode_table(table, {"job_id": "x"})
    kinds = set()
    for position in range(len(whole) - 3000, len(whole)):
        for byte in b"\x00B\xff":
            data = whole[:position] + bytes([byte]) + whole[position + 1 :]
            try:
                read_metadata(data)
            except ValueError as error:
                kinds.add(type(error.__cause__))
    assert pa.ArrowNotImplementedError in kinds


def test_part_of_a_file_or_more_is_no_file(table: pa.Table) -> None:
    """Cut anywhere, or with something behind it: an error, never fewer rows."""
    data = encode_table(table, {})
    for spoilt in [*(data[:length] for length in range(0, len(data), 7)), data + b"x", data + data]:
        with pytest.raises(ValueError, match="do not have the sha256"):
            decode_table(spoilt)


def test_faults_of_rows_are_found(table: pa.Table) -> None:
    """Nulls where something was read, or the other way round; rows accepted against the rule."""
    assert list(find_faults(table, 0.99)) == []
    assert list(find_faults(table, 0.995)) == [
        "accepted does not follow from status and confidence"
    ]
    assert list(find_faults(table, None)) == ["accepted does not follow from status and confidence"]
    for name in ("digit", "confidence", "probabilities"):
        column = table.schema.get_field_index(name)
        nulls = pa.nulls(len(table), table.schema.field(name).type)
        spoilt = table.set_column(column, table.schema.field(name), nulls)
        assert f"{name} is not there just where an image was read" in find_faults(spoilt, 0.99)
