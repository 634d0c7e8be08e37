"""One shard in, its files out, and a record of what did not go in; knows nothing of Ray.

    OUTPUT/shards/00000007-00000.tar   images, up to `MAX_FILE_BYTES` a file
    OUTPUT/shards/00000007-00001.tar   ...
    OUTPUT/errors/00000007.parquet     objects of the shard that are in none of them, mostly none

The record is written last and commits the shard; a shard without one is packed again, into files of
the same names.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_ocr.digits.batch import OK
from mnist_ocr.digits.decoding import name_format
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.archives import SEPARATOR, archive_of, find_format
from mnist_ocr.labelling.job import ShardJob
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.manifest import list_numbered
from mnist_ocr.labelling.manifest_shard import ManifestShard, read_shard
from mnist_ocr.labelling.packed_files import ENCODERS, PackedImage
from mnist_ocr.labelling.predictions import encode_table, read_metadata
from mnist_ocr.labelling.sources import Source
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.storage import UNKNOWN_SIZE, ObjectInfo, Store
from mnist_ocr.traffic import Traffic

SHARDS, ERRORS = "shards/", "errors/"
"""Folders of the output."""

MAX_FILE_BYTES = 64 * 1024**2
"""Of the images in a file, unless one alone has more: what bounds a worker's memory."""

ERROR_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)
"""Of a shard's record: objects that could not be packed."""


@dataclass(frozen=True, kw_only=True)
class PackJob(ShardJob):
    """Everything that the files depend on; workers get a copy."""

    command = "pack"

    format: str
    """A key of `ENCODERS`."""


@dataclass(frozen=True)
class PackReceipt:
    """What became of a shard."""

    num_images: int
    """Objects in it, packed or not."""
    num_files: int
    packed_bytes: int
    """Of the files."""
    statuses: dict[str, int]
    """Objects by status; `ok` are packed."""
    traffic: Traffic
    """What reading the objects took."""

    def encode(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"traffic": self.traffic.encode()}

    @classmethod
    def decode(cls, document: Mapping[str, Any]) -> "PackReceipt":
        """The other way round."""
        return cls(**{**document, "traffic": Traffic.decode(document["traffic"])})

    @property
    def num_read(self) -> int:
        """All of them."""
        return self.num_images

    @property
    def num_errors(self) -> int:
        """Objects that could not be packed."""
        return self.num_images - self.statuses.get(OK, 0)


def pack_shard(
    source: Source, output: Store, job: PackJob, shard: int, watch: Stopwatch
) -> PackReceipt:
    """Copy a shard's objects into files, and commit it.

    Args:
        source: The input.
        output: Where its manifest is, and the files go.
        job: What is done.
        shard: Number of the shard.
        watch: Is told the seconds of `fetch` and `write`.

    Raises:
        UsageError: the whole input is gone, or the output cannot be written.
        StorageUnreachableError: a store does not answer.
    """
    source.check_is_here()
    source.take_traffic()  # of a shard that failed half-way
    manifest = read_shard(output, shard)
    errors: list[dict[str, Any]] = []
    num_files, packed_bytes = 0, 0

    for images in split(_read_images(source, manifest, errors), MAX_FILE_BYTES):
        watch.lap("fetch")
        data = ENCODERS[job.format](images)
        images.clear()  # before their file is written
        output.write(file_name(shard, num_files, job.format), data)
        num_files += 1
        packed_bytes += len(data)
        del data  # before the next images are fetched
        watch.lap("write")
    _delete_leftovers(output, shard, num_files, job.format)
    num_images = len(manifest.table)
    statuses = Counter(error["status"] for error in errors)
    statuses[OK] = num_images - len(errors)
    receipt = PackReceipt(
        num_images, num_files, packed_bytes, dict(statuses), source.take_traffic()
    )
    table = pa.Table.from_pylist(errors, ERROR_SCHEMA)
    metadata = {"job_id": job.job_id, "receipt": receipt.encode()}
    output.write(record_name(shard), encode_table(table, metadata))
    watch.lap("write")
    return receipt


def _read_images(
    source: Source, manifest: ManifestShard, errors: list[dict[str, Any]]
) -> Iterator[PackedImage]:
    """Those that can be read; the others become `errors`."""
    objects = manifest.objects(source)
    ids, paths = (manifest.table[name].to_pylist() for name in ("id", "path"))
    contents = source.read_many(objects)
    for id_, path, info, content in zip(ids, paths, objects, contents, strict=True):
        if isinstance(content, ObjectError):
            row = {"id": id_, "path": path, "status": content.status, "error": str(content)}
            errors.append(row)
            continue
        encoded = content if isinstance(content, bytes) else encode_png(content)
        yield PackedImage(name_member(source, info, encoded), path, encoded)


def split(images: Iterable[PackedImage], max_bytes: int) -> Iterator[list[PackedImage]]:
    """Neighbours, of up to `max_bytes` together; a list may be emptied by who takes it."""
    chosen: list[PackedImage] = []
    num_bytes = 0
    for image in images:
        if chosen and num_bytes + len(image.content) > max_bytes:
            yield chosen
            chosen, num_bytes = [], 0
        chosen.append(image)
        num_bytes += len(image.content)
    if chosen:
        yield chosen


def name_member(source: Source, info: ObjectInfo, content: bytes) -> str:
    """Of an object in a tar: its name relative to the input, whatever it holds.

    A member of an archive is named as if the archive were a folder: `scans.zip/7.png`; one without
    a name of its own gets an ending by its content: `train-idx3-ubyte/41.png`.
    """
    if not Locator.parse(info.etag).position:
        return info.name
    archive = archive_of(info.name)
    form = find_format(archive)
    assert form
    member = info.name[len(archive + SEPARATOR) :]
    if not form.has_names and (kind := name_format(content)):
        member += f".{kind.lower()}"
    return member if source.uri_of(archive) == source.uri else f"{archive}/{member}"


def encode_png(page: NDArray[np.uint8]) -> bytes:
    """A grey (H, W) uint8 page without loss."""
    return cv2.imencode(".png", page)[1].tobytes()


def file_name(shard: int, number: int, kind: str) -> str:
    """Of one of a shard's files, from 0, below the output folder."""
    return f"{SHARDS}{shard:08d}-{number:05d}.{kind}"


def record_name(shard: int) -> str:
    """Of a shard's record of errors, which commits it."""
    return f"{ERRORS}{shard:08d}.parquet"


def _delete_leftovers(output: Store, shard: int, num_files: int, kind: str) -> None:
    """Files of a run that was killed, and that found more to read."""
    found: list[str] = []
    while output.find(name := file_name(shard, num_files + len(found), kind)):
        found.append(name)
    for name in reversed(found):  # so that those which a kill leaves are found again
        output.delete(name)
        if output.find(name):
            raise UsageError(
                f"Cannot delete {output.uri_of(name)}, whose images are in other files now. Delete "
                "it, then run the same command again."
            )


def list_packed_shards(output: Store) -> list[int]:
    """Numbers of the shards that are committed, in order."""
    return list(list_numbered(output, ERRORS, re.compile(rf"{ERRORS}(\d{{8}})\.parquet")))


def read_receipts(output: Store, shards: Collection[int]) -> Iterator[PackReceipt]:
    """The receipts of shards that earlier runs have packed."""
    infos = [ObjectInfo(record_name(shard), UNKNOWN_SIZE, "") for shard in shards]
    for info, data in zip(infos, output.read_many(infos), strict=True):
        if isinstance(data, ObjectError):
            raise data
        try:
            yield PackReceipt.decode(read_metadata(data)["receipt"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{output.uri_of(info.name)} is damaged: {error}. Delete it and run the same "
                "command again."
            ) from error
