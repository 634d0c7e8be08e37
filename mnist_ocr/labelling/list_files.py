"""The lines of lists of URIs: text, CSV, Parquet, and the files of an S3 Inventory."""

import csv
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.labelling.archives import MIN_LIMIT, open_archive
from mnist_ocr.labelling.parquet_archive import open_parquet
from mnist_ocr.labelling.range_reader import FREE_BYTES, MAX_RATIO, GunzipReader
from mnist_ocr.storage import UNKNOWN_SIZE, ObjectInfo, Store, open_store

URI_COLUMNS = ("path", "uri", "url", "key")
"""What a column of URIs may be called, in order of preference."""

OBJECT_COLUMNS = {"bucket", "size", "etag", "islatest", "isdeletemarker"}
"""Others that a list of S3's objects may have; `ETag` and `e_tag` are the same."""

MAX_LINE_LENGTH = 131_072
"""Characters; the limit of Python's csv for a field."""

BATCH_SIZE = 8192
"""Rows of Parquet in memory at a time."""

BUCKET_ARN = "arn:aws:s3:::"


class Listed(NamedTuple):
    """A line of a list."""

    uri: str
    size: int = UNKNOWN_SIZE
    etag: str = ""


Columns = Mapping[str, int]
"""Where in a row each known column is: `uri` and those of `OBJECT_COLUMNS`."""


def find_columns(names: Sequence[str]) -> dict[str, int]:
    """Which of the columns are known, and where; without `uri` it is no list."""
    plain = [name.strip().lower().replace("_", "") for name in names]
    uri = next((name for name in URI_COLUMNS if name in plain), None)
    if uri is None:
        return {}
    columns = {"uri": plain.index(uri)}
    if uri == "key" and "bucket" in plain:
        columns |= {name: plain.index(name) for name in OBJECT_COLUMNS if name in plain}
    return columns


def read_list(store: Store, info: ObjectInfo) -> Iterator[Listed]:
    """The lines of a `.txt`, `.csv` or `.parquet`.

    Raises:
        UsageError: it cannot be read.
        StorageUnreachableError: the store does not answer.
    """
    uri = store.uri_of(info.name)
    try:
        kind = info.name.lower().removesuffix(".gz")
        if kind.endswith(".parquet"):
            yield from _check_length(_read_parquet(store, info), info.size)
        elif kind.endswith(".csv"):
            rows = csv.reader(_read_lines(store, info))
            first = next(rows, [])
            columns = find_columns(first)
            if not columns:
                yield from _parse([first], {"uri": 0})
            yield from _check_length(_parse(rows, columns or {"uri": 0}), info.size)
        else:
            lines = (each.rstrip("\r\n") for each in _read_lines(store, info))
            yield from _check_length((Listed(line) for line in lines if line), info.size)
    except _FAULTS as error:
        raise _explain(uri, error) from error


def read_inventory(store: Store, info: ObjectInfo, *, anonymous: bool = False) -> Iterator[Listed]:
    """The objects of an S3 Inventory, out of its `manifest.json`; no older versions.

    Raises:
        UsageError: it is no such manifest, or it, or one of its files, cannot be read.
        StorageUnreachableError: the store does not answer.
    """
    uri = store.uri_of(info.name)
    try:
        manifest: dict[str, Any] = json.loads(store.read(info.name, info.etag))
        bucket = manifest["destinationBucket"].removeprefix(BUCKET_ARN)
        file_format = manifest["fileFormat"]
        columns = find_columns(manifest["fileSchema"].split(","))
        keys = [file["key"] for file in manifest["files"]]
        if file_format not in ("CSV", "Parquet"):
            raise UsageError(f"{uri} is an inventory in {file_format}: ask for CSV or Parquet.")
        files = open_store(f"s3://{bucket}", anonymous=anonymous) if keys else store
        for key in keys:
            part = files.find(key)
            if not part:
                raise ObjectError("missing", f"There is no {files.uri_of(key)}.")
            if file_format == "Parquet":
                yield from _check_length(_read_parquet(files, part), part.size)
            else:
                rows = csv.reader(_read_lines(files, part))
                yield from _check_length(_parse(rows, columns, is_quoted=True), part.size)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UsageError(f"{uri} is no manifest of an S3 Inventory: {error!r}.") from error
    except _FAULTS as error:
        raise _explain(uri, error) from error


def _read_lines(store: Store, info: ObjectInfo) -> Iterator[str]:
    file: Any = open_archive(store.read_range, info)
    if info.name.lower().endswith(".gz"):
        file = GunzipReader(fileobj=file, mode="rb")
    # names that are not UTF-8 are file names all the same; newlines are the CSV reader's to find
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    while line := text.readline(MAX_LINE_LENGTH):
        if len(line) == MAX_LINE_LENGTH:
            raise ValueError(f"a line has {MAX_LINE_LENGTH:,} characters or more")
        yield line


def _check_length(lines: Iterator[Listed], size: int) -> Iterator[Listed]:
    """The same lines of a list of `size` bytes, unless they are more than compression explains."""
    num_chars = 0
    for num_lines, listed in enumerate(lines, 1):
        num_chars += len(listed.uri)
        _check_count(num_lines, size)
        if num_chars > max(FREE_BYTES, MAX_RATIO * size):
            raise ValueError(f"its {size:,} bytes hold over {num_chars:,} characters")
        yield listed


def _check_count(num_lines: int, size: int) -> None:
    if num_lines > max(size, MIN_LIMIT):
        raise ValueError(f"it has more lines than bytes, {size:,}: write it uncompressed")


def _read_parquet(store: Store, info: ObjectInfo) -> Iterator[Listed]:
    file = open_archive(store.read_range, info)
    footer = open_parquet(file)
    _check_count(footer.metadata.num_rows, info.size)  # which may all be null
    found = find_columns(footer.schema_arrow.names)
    wanted = [footer.schema_arrow.names[place] for place in found.values()]
    columns = {name: place for place, name in enumerate(found)}
    # a value that is repeated is in memory once, and not before its length is known
    leaves = {footer.schema.column(i).path for i in range(len(footer.schema))}
    parquet = open_parquet(file, [name for name in wanted if name in leaves])
    for batch in parquet.iter_batches(BATCH_SIZE, columns=wanted, use_threads=False):
        values = [_read_column(batch.column(name)) for name in wanted]
        yield from _parse(zip(*values, strict=True), columns)


def _read_column(column: pa.Array) -> list[Any]:
    if not pa.types.is_dictionary(column.type):
        is_number = pa.types.is_primitive(column.type) or pa.types.is_decimal(column.type)
        if not is_number and not pa.types.is_null(column.type):
            raise ValueError(f"a column holds {column.type}, not text")
        values: list[Any] = column.to_pylist()
        return values
    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    if longest >= MAX_LINE_LENGTH:
        raise ValueError(f"a value has {longest:,} bytes, more than a line may")
    texts = column.dictionary.to_pylist()
    return [None if i is None else texts[i] for i in column.indices.to_pylist()]


def _parse(
    rows: Iterator[Sequence[Any]] | list[list[str]], columns: Columns, *, is_quoted: bool = False
) -> Iterator[Listed]:
    for row in rows:
        fields = {name: row[place] for name, place in columns.items() if place < len(row)}
        uri = fields.get("uri")
        if not uri or fields.get("islatest") in ("false", False):
            continue
        if fields.get("isdeletemarker") in ("true", True):
            continue
        if isinstance(uri, bytes):
            uri = uri.decode(errors="surrogateescape")
        if not isinstance(uri, str):
            raise ValueError(f"a column of URIs holds {uri!r}")
        if "bucket" not in fields:
            yield Listed(uri)
            continue
        uri = unquote_plus(uri) if is_quoted else uri
        size = fields.get("size")
        known = UNKNOWN_SIZE if size in (None, "") else int(size)
        etag = (fields.get("etag") or "").strip('"')  # which S3's own answers put around it
        yield Listed(f"s3://{fields['bucket']}/{uri}", known, etag)


_FAULTS = (ObjectError, OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException)
"""What reading a damaged list may raise."""


def _explain(uri: str, error: Exception) -> Exception:
    if isinstance(error, (UsageError, StorageUnreachableError)):
        return error
    reason = str(error).partition("\n")[0].removesuffix(".")
    if isinstance(error, ObjectError) and error.status == "throttled":
        return StorageUnreachableError(f"Cannot read the list {uri}: {reason}.")
    return UsageError(f"Cannot read the list {uri}: {reason}. Mend it, or pass another.")
