"""The output contract: one row per input object, always. Described in docs/predictions.md."""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mnist_ocr.digits.batch import OK
from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.digits.classifier import Predictions

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("digit", pa.int8()),
        pa.field("confidence", pa.float32()),
        pa.field("probabilities", pa.list_(pa.float32(), NUM_CLASSES)),
        pa.field("accepted", pa.bool_(), nullable=False),
        pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("error", pa.string()),
    ]
)

METADATA_KEY = b"mnist_ocr"
"""Key of the JSON document in each file's metadata: job id, model sha256, versions, counts."""


def build_table(
    ids: pa.ChunkedArray, paths: pa.ChunkedArray, predictions: Predictions, threshold: float | None
) -> pa.Table:
    """One row per image, in the order given.

    Args:
        ids: N manifest ids, int64.
        paths: N absolute URIs, string.
        predictions: Of N images.
        threshold: Confidence from which on rows of status `ok` are accepted; None for no row.
    """
    unread = np.isnan(predictions.confidence)
    accepted = (predictions.status == OK) & (
        predictions.confidence >= np.float32(np.inf if threshold is None else threshold)
    )
    probabilities = pa.FixedSizeListArray.from_arrays(
        pa.array(predictions.probabilities.reshape(-1)), NUM_CLASSES, mask=pa.array(unread)
    )
    columns = [
        ids,
        paths,
        pa.array(predictions.digit, mask=unread),
        pa.array(predictions.confidence, mask=unread),
        probabilities,
        pa.array(accepted),
        pa.array(predictions.status.tolist()).dictionary_encode(),
        pa.array(predictions.error, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def encode_table(table: pa.Table, metadata: Mapping[str, object]) -> bytes:
    """The table as a Parquet file, with `metadata` as JSON under `METADATA_KEY`."""
    document = json.dumps(metadata).encode()
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({METADATA_KEY: document}), sink, compression="zstd"
    )
    return sink.getvalue()


def decode_table(data: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """A Parquet file's rows and its `METADATA_KEY` document ({} where there is none).

    Raises:
        pa.ArrowInvalid: it is not a whole Parquet file.
        OSError: a part of it cannot be decoded.
    """
    table = pq.read_table(pa.BufferReader(data))
    return table.replace_schema_metadata(None), read_metadata(data)


def read_metadata(data: bytes) -> dict[str, Any]:
    """A Parquet file's `METADATA_KEY` document ({} where there is none), from its footer alone.

    Raises:
        pa.ArrowInvalid: it is not a whole Parquet file.
    """
    metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    document: dict[str, Any] = json.loads(metadata.get(METADATA_KEY, b"{}"))
    return document


def digest_rows(table: pa.Table) -> str:
    """Hex sha256 of the rows, whatever the encoding of the file.

    Parquet's own page checksums do not serve: with pyarrow 26 reading verified few of the pages.
    """
    digest = hashlib.sha256()
    for column in table.columns:
        values = column.combine_chunks()
        if pa.types.is_fixed_size_list(values.type):
            values = pc.list_flatten(values)
        if pa.types.is_dictionary(values.type) or pa.types.is_string(values.type):
            content = "\0".join(text or "" for text in values.to_pylist()).encode()
        else:
            content = values.drop_null().to_numpy(zero_copy_only=False).tobytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
