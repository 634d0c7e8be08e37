"""The output contract: one row per input object, always. Described in docs/predictions.md."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mnist_ocr.digits.batch import OK
from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.digits.classifier import NOT_A_DIGIT, Predictions
from mnist_ocr.labelling.sealing import UNSEALED, check_seal, seal

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


def find_faults(table: pa.Table, threshold: float | None) -> Iterator[str]:
    """What `build_table` would not have built so: nulls, or `accepted`; half a sentence each."""
    status = table["status"].cast(pa.string())
    is_read = pc.is_in(status, pa.array([OK, NOT_A_DIGIT]))
    for column in ("digit", "confidence", "probabilities"):
        if not table[column].is_valid().equals(is_read):
            yield f"{column} is not there just where an image was read"
    is_sure = pc.greater_equal(
        table["confidence"], pa.scalar(np.inf if threshold is None else threshold, pa.float32())
    )
    if not table["accepted"].equals(pc.and_(pc.equal(status, OK), is_sure.fill_null(False))):
        yield "accepted does not follow from status and confidence"


def encode_table(table: pa.Table, metadata: Mapping[str, object]) -> bytes:
    """The table as a sealed Parquet file, with `metadata` as JSON under `METADATA_KEY`.

    Parquet's own page checksums do not serve: pyarrow 26 verified few pages.
    """
    document = json.dumps({**metadata, **UNSEALED})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        # of the file; the schema's own would be in it a second time
        writer.add_key_value_metadata({METADATA_KEY: document})
    return seal(sink.getvalue())


def decode_table(data: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """A Parquet file's rows and its `METADATA_KEY` document, if not a bit of it has changed.

    Raises:
        ValueError: it is not as `encode_table` made it.
    """
    check_seal(data)
    table = pq.read_table(pa.BufferReader(data))
    return table.replace_schema_metadata(None), read_metadata(data)


def read_metadata(data: bytes) -> dict[str, Any]:
    """A Parquet file's `METADATA_KEY` document ({} where there is none), from its footer alone.

    Raises:
        ValueError: it is not a whole Parquet file, or its footer or that document is damaged.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError) as error:  # such as ArrowNotImplementedError
        raise ValueError(str(error)) from error
    document: dict[str, Any] = json.loads(metadata.get(METADATA_KEY, b"{}"))
    return document
