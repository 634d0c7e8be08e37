"""A user's own labelled scans, local or in a bucket: class folders, or Parquet files.

    scans/0/a.png              scans/part-0.parquet     image: bytes, or a struct with `bytes`
    scans/7/2026/b.jpg         scans/part-1.parquet     label: 0-9, or "0"-"9"

Scans become images exactly as they do when they are labelled. What cannot be used is left out and
counted by its reason; what can only be a mistake about the whole is an error.
"""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.batch import OK, prepare_images
from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.storage import UNKNOWN_SIZE, ObjectInfo, Store, open_store, resolve_uri
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.parquet_scans import read_parquet

logger = logging.getLogger(__name__)

CHUNK_SIZE = 4096
"""Objects decoded into one array: their contents are never in memory together."""

CLASS_FOLDERS = tuple("0123456789")

Content = bytes | ObjectError
"""An encoded image, or the reason why there is none."""

Chunk = tuple[list[int], Iterable[Content]]
"""Labels, and as many encoded images or reasons why there is none."""


class LabelledScans(NamedTuple):
    """N different images: `images` (N, 28, 28) uint8, white ink on black; `labels` (N,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    skipped: Mapping[str, int]
    """How many objects or rows were left out, by reason: a status of labelling,
    `not_in_a_class_folder`, `not_parquet`, `no_image`, `no_label`, `duplicate` (the same pixels and
    label as another) or `contradicting_labels` (the same pixels under several labels)."""


def read_labelled_scans(config: DatasetConfig) -> LabelledScans:
    """Read all scans of `config.dataset`, a folder, a `.parquet` file, or a URI of either.

    Raises:
        UsageError: There is nothing to read, nothing usable, or something that is not labelled with
            digits from 0 to 9.
        StorageUnreachableError: The store does not answer.
    """
    uri = resolve_uri(config.dataset)
    skipped: Counter[str] = Counter()
    parts = [(np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8), np.zeros(0, np.int64))]
    for chunk_labels, contents in _read_chunks(config, uri):
        batch = prepare_images(_raise_if_refused(contents), len(chunk_labels))
        skipped.update(status for status in batch.status if status != OK)
        parts.append((batch.images[batch.is_ok], np.array(chunk_labels, np.int64)[batch.is_ok]))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    is_kept, repeated = _find_repeated(images, labels)
    skipped += repeated
    if skipped:
        logger.warning("%s: skipped %s", uri, _format_counts(skipped))
    scans = LabelledScans(images[is_kept], labels[is_kept], dict(skipped))
    _check_digits(uri, scans)
    return scans


def _raise_if_refused(contents: Iterable[Content]) -> Iterator[Content]:
    """Let pass what says something about an image, and not about the store or the rights to it."""
    for content in contents:
        if isinstance(content, ObjectError) and content.status == "forbidden":
            raise UsageError(str(content))
        if isinstance(content, ObjectError) and content.status in ("throttled", "changed"):
            raise StorageUnreachableError(f"{content} Run the same command again.")
        yield content


def _read_chunks(config: DatasetConfig, uri: str) -> Iterator[Chunk]:
    columns = (config.image_column, config.label_column)
    if _is_parquet(config.dataset) and not Path(uri).is_dir():
        folder, _, name = uri.rpartition("/")
        info = ObjectInfo(name, UNKNOWN_SIZE, "")
        yield from read_parquet(open_store(folder or "/"), [info], *columns)
        return
    store = open_store(uri)
    # in a bucket a key that ends with a slash, or has the prefix's own name, stands for a folder
    objects = [info for page in store.list() for info in page if info.name[-1:] not in ("", "/")]
    has_class_folders = any(info.name.partition("/")[0] in CLASS_FOLDERS for info in objects)
    files = [info for info in objects if _is_parquet(info.name)]
    if files and not has_class_folders:
        yield from read_parquet(store, files, *columns)
        yield _refuse("not_parquet", len(objects) - len(files))
    else:
        yield from _read_class_folders(store, objects)


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _refuse(reason: str, count: int) -> Chunk:
    return [0] * count, [ObjectError(reason, reason)] * count


def _read_class_folders(store: Store, objects: list[ObjectInfo]) -> Iterator[Chunk]:
    folders: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
    for info in objects:
        folder, slash, _ = info.name.rpartition("/")
        folders[folder.partition("/")[0] + slash].append(info)
    _check_class_folders(store, folders)
    for folder, members in folders.items():
        if folder.rstrip("/") not in CLASS_FOLDERS:
            yield _refuse("not_in_a_class_folder", len(members))
            continue
        for start in range(0, len(members), CHUNK_SIZE):
            chunk = members[start : start + CHUNK_SIZE]
            yield [int(folder.rstrip("/"))] * len(chunk), store.read_many(chunk)


def _check_class_folders(store: Store, folders: Mapping[str, list[ObjectInfo]]) -> None:
    wrong = [
        f"{folder} ({len(members):,} objects)"
        for folder, members in folders.items()
        if re.fullmatch(r"[+-]?\d+/", folder) and folder[:-1] not in CLASS_FOLDERS
    ]
    if wrong:
        raise UsageError(
            f"{store.uri} holds {_enumerate(wrong)}, but the classes are 0/ to 9/. Move the folder "
            "away, or give it the name of its digit."
        )
    if not any(folder[:-1] in CLASS_FOLDERS for folder in folders):
        names = [name for name in folders if name]
        names += [info.name for info in folders.get("", ())]
        raise UsageError(
            f"There are no class folders 0/ to 9/ and no .parquet files in {store.uri}: it holds "
            f"{_enumerate(names) or 'nothing'}. Pass the folder that holds them directly."
        )


def _enumerate(names: list[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _find_repeated(
    images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Find equal images, so that no two splits share one: which to keep, and why not the others."""
    first: dict[bytes, int] = {}
    groups = np.array(  # of each image, the first that is equal
        [first.setdefault(hashlib.sha256(im).digest(), i) for i, im in enumerate(images)], np.int64
    )
    is_contradicting = np.isin(groups, groups[labels != labels[groups]])
    is_duplicate = (groups != np.arange(len(groups))) & ~is_contradicting
    return ~is_duplicate & ~is_contradicting, Counter(
        duplicate=int(is_duplicate.sum()), contradicting_labels=int(is_contradicting.sum())
    )


def _check_digits(uri: str, scans: LabelledScans) -> None:
    counts = np.bincount(scans.labels, minlength=10)
    present, absent = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    if not present.size:
        raise UsageError(
            f"No usable image in {uri}: {_format_counts(scans.skipped) or 'it has no rows'}. Pass "
            "PNG, JPEG, TIFF, BMP, GIF or WebP files that show a digit each."
        )
    if absent.size:
        digits = ", ".join(map(str, absent))
        logger.warning("%s has no image of %s: a model cannot learn them from it", uri, digits)


def _format_counts(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
