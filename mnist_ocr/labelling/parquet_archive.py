"""Parquet with a column of encoded images: binary, or Hugging Face's struct of bytes and path.

Position: number of the row, from 0.
"""

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling.members import STORE_ERRORS, ContentOrError, Member
from mnist_ocr.storage import UNKNOWN_SIZE

BATCH_SIZE = 64
"""Rows in memory at a time."""

MAX_RATIO, MAX_DICTIONARY_BYTES = 20, 4 * 1024**2
"""Of a column: bytes out of one that is compressed, and of its dictionary, from which on rows are
read one at a time."""

BUFFER_BYTES = 1024**2
"""Of a column: it is streamed, since a row group may hold gigabytes."""

NAMES = ("image", "img", "png", "jpg", "jpeg", "bytes", "content", "data")
"""Which of several binary columns holds the images, in order of preference."""


def list_members(file: BinaryIO) -> Iterator[Member]:
    """Every row, named by its number; reads the file's footer only.

    Raises:
        ObjectError: `truncated`, `corrupt`, `unsupported` or `not_an_image`.
    """
    footer = open_parquet(file)
    find_image_column(footer.schema_arrow)
    for row in range(footer.metadata.num_rows):
        yield Member(str(row), UNKNOWN_SIZE, str(row))


def read_rows(file: BinaryIO, rows: list[int]) -> Iterator[ContentOrError]:
    """The images of some rows, in ascending order; a row group is read from its start.

    Raises:
        ObjectError: the file cannot be read any further.
    """
    parquet = open_parquet(file)
    column = find_image_column(parquet.schema_arrow)
    first, done = 0, 0
    try:
        for group in range(parquet.num_row_groups):
            end = first + parquet.metadata.row_group(group).num_rows
            last = bisect_left(rows, end)
            if last > done:
                yield from _read_group(
                    parquet, group, column, [row - first for row in rows[done:last]]
                )
            first, done = end, last
    except STORE_ERRORS:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise ObjectError("corrupt", f"The Parquet file is damaged: {reason}.") from error


def _read_group(
    parquet: pq.ParquetFile, group: int, column: str, rows: list[int]
) -> Iterator[ContentOrError]:
    first, done = 0, 0
    batch_size = 1 if _may_swell(parquet.metadata.row_group(group), column) else BATCH_SIZE
    batches = parquet.iter_batches(batch_size, [group], [column], use_threads=False)
    for batch in batches:
        end = first + len(batch)
        last = bisect_left(rows, end)
        if last > done:
            values = batch.column(0)
            if pa.types.is_struct(values.type):
                values = pc.struct_field(values, "bytes")
            wanted = values.take(pa.array([row - first for row in rows[done:last]]))
            for value in wanted.to_pylist():
                yield value or ObjectError("empty", "The row holds no bytes of an image.")
        first, done = end, last
        if done == len(rows):
            return


def _may_swell(group: pq.RowGroupMetaData, column: str) -> bool:
    """Whether few bytes may be many large values: compressed, or in a dictionary, much repeated.

    Images do not compress, and writers end a dictionary at a MiB. What the metadata do not admit
    is not seen.

    Raises:
        ObjectError: `too_large`: they may all be in one page; `corrupt`: there is no such column.
    """
    chunks = (group.column(i) for i in range(group.num_columns))
    chunk = next((chunk for chunk in chunks if chunk.path_in_schema == column), None)
    if chunk is None:
        raise ObjectError("corrupt", f"A row group of the Parquet file has no column {column}.")
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    num_bytes, num_packed = chunk.total_uncompressed_size, chunk.total_compressed_size
    is_dense = bool(num_bytes > MAX_RATIO * num_packed)
    if is_dense and num_bytes > 2 * MAX_BYTES:
        reason = f"{num_packed:,} bytes of the Parquet file hold {num_bytes:,}: write it anew."
        raise ObjectError("too_large", reason)
    return is_dense or bool(chunk.data_page_offset - start > MAX_DICTIONARY_BYTES)


def open_parquet(file: BinaryIO, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """A file with its footer read; `dictionaries` are columns that stay as they are encoded.

    Raises:
        ObjectError: `truncated`, `corrupt` or `not_an_image`.
    """
    try:
        return pq.ParquetFile(
            file,
            read_dictionary=dictionaries or None,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except STORE_ERRORS:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        file.seek(0)
        if file.read(4) != b"PAR1":
            reason = "The file is not Parquet, whatever its name says."
            raise ObjectError("not_an_image", reason) from error
        file.seek(-4, io.SEEK_END)
        status, what = (
            ("corrupt", "has a damaged footer")
            if file.read(4) == b"PAR1"
            else ("truncated", "has no footer at its end")
        )
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise ObjectError(status, f"The Parquet file {what}: {reason}. Copy it again.") from error


def find_image_column(schema: pa.Schema) -> str:
    """The column of encoded images, of a struct the field in it.

    Raises:
        ObjectError: `not_an_image`: there is none; `unsupported`: there are several.
    """
    found = {}
    for field in schema:
        if pa.types.is_struct(field.type):
            index = field.type.get_field_index("bytes")
            if index >= 0 and _is_binary(field.type.field(index).type):
                found[field.name] = f"{field.name}.bytes"
        elif _is_binary(field.type):
            found[field.name] = field.name
    if not found:
        raise ObjectError(
            "not_an_image", f"None of the Parquet columns {', '.join(schema.names)} holds bytes."
        )
    chosen = list(found) if len(found) == 1 else [name for name in NAMES if name in found]
    if not chosen:
        raise ObjectError(
            "unsupported",
            f"Which of the columns {', '.join(found)} holds the images? Name one of them image.",
        )
    return found[chosen[0]]


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
