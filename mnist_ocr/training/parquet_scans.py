"""Encoded images and their digits from two columns of Parquet files."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import ObjectInfo, Store

BATCH_SIZE = 256
"""Rows in memory at a time, beside the encoded file."""

DIGITS = {label: digit for digit in range(10) for label in (digit, str(digit))}
"""What a label may be; a float such as 3.0 equals its integer."""

Batch = tuple[list[int], list[bytes | ObjectError]]
"""Labels, and as many encoded images or reasons why there is none."""


def read_parquet(
    store: Store, files: list[ObjectInfo], image_column: str, label_column: str
) -> Iterator[Batch]:
    """Read files one after the other, a batch of rows at a time.

    A row without an image is an error `no_image` in its place, one without a label `no_label`.

    Raises:
        UsageError: A file cannot be read, lacks a column, or labels something but digits 0 to 9.
        StorageUnreachableError: The store does not answer.
    """
    for info, content in zip(files, store.read_many(files), strict=True):
        if isinstance(content, ObjectError):
            raise UsageError(f"{content} Pass a .parquet file that can be read.") from content
        uri = store.uri_of(info.name)
        try:
            # where the writer of the file has added checksums, they are verified
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            _check_columns(uri, file.schema_arrow, image_column, label_column)
            for rows in file.iter_batches(BATCH_SIZE, columns=[image_column, label_column]):
                images, labels = rows.column(image_column), rows.column(label_column)
                if pa.types.is_struct(images.type):
                    images = pc.struct_field(images, "bytes")
                yield _pair(uri, images.to_pylist(), labels.to_pylist(), label_column)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).partition("\n")[0].removesuffix(".")
            raise UsageError(f"{uri} is no sound Parquet file: {reason}. Copy it again.") from error


def _check_columns(uri: str, schema: pa.Schema, image_column: str, label_column: str) -> None:
    for flag, column in (("--image-column", image_column), ("--label-column", label_column)):
        if schema.names.count(column) != 1:
            raise UsageError(
                f"{uri} needs one column {column!r}; its columns are {', '.join(schema.names)}. "
                f"Pass {flag}."
            )
    image_type, label_type = schema.field(image_column).type, schema.field(label_column).type
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        image_type = image_type.field("bytes").type
    types = pa.types
    binary = (types.is_binary, types.is_large_binary, types.is_binary_view)
    if not any(is_kind(image_type) for is_kind in binary):
        raise UsageError(
            f"The column {image_column!r} of {uri} is {image_type}, not encoded images (binary, or "
            "a struct with a binary field bytes). Pass another --image-column."
        )
    others = (*binary, types.is_nested, types.is_temporal, types.is_boolean)
    if any(is_kind(label_type) for is_kind in others):
        raise UsageError(
            f"The column {label_column!r} of {uri} is {label_type}, not digits. Pass another "
            "--label-column."
        )


def _pair(uri: str, images: list[Any], labels: list[Any], label_column: str) -> Batch:
    labels = [None if label != label else label for label in labels]  # NaN stands for none, too
    for label in labels:
        if label is not None and label not in DIGITS:
            raise UsageError(
                f"The column {label_column!r} of {uri} holds {label!r:.40}, but a label is a digit "
                "from 0 to 9. Correct it, or pass another --label-column."
            )
    contents = [
        ObjectError("no_label", "The row has no label.")
        if label is None
        else image or ObjectError("no_image", "The row has no image.")
        for image, label in zip(images, labels, strict=True)
    ]
    return [DIGITS.get(label, 0) for label in labels], contents
