"""A labelling job without a framework: one process per core, each with its share of the files.

Either nothing but what has to be done (`BareWork`), or the steps of `mnist-ocr` itself on each
image (`OwnSteps`), so that the framework's cost stands apart from the work's.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sides import Timeline, build_rows

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.digits.model import Model
from mnist_ocr.labelling.predictions import build_table, encode_table
from mnist_ocr.local_store import LocalStore

SHARD_SIZE = 8192
"""Images in a Parquet file."""

BATCH_SIZE = 64
"""Images in a forward pass of ONNX Runtime: 512 take 9% longer."""

Work = Callable[[Sequence[str], int], Timeline]
"""A process's share of the paths, and its number."""


def run_on_all_cores(work: Work, paths: Sequence[str]) -> Timeline:
    """Contiguous shares of the paths, each in a process of its own."""
    num_cores = os.cpu_count() or 1
    bounds = [len(paths) * i // num_cores for i in range(num_cores + 1)]
    shares = [paths[start:end] for start, end in pairwise(bounds)]
    with Pool(num_cores) as pool:
        timelines = pool.starmap(work, zip(shares, range(num_cores), strict=True))
    return sorted(entry for timeline in timelines for entry in timeline)


def list_paths(folder: Path) -> list[str]:
    return sorted(entry.path for entry in os.scandir(folder / "scans"))


def read_files(paths: Sequence[str]) -> Iterator[bytes]:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        yield os.read(descriptor, 1 << 20)
        os.close(descriptor)


def read_pngs(paths: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    for data in read_files(paths):
        yield cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


@dataclass(frozen=True)
class BareWork:
    """Read, decode, predict, write: nothing is checked, canonicalised or calibrated."""

    read: Callable[[Sequence[str]], Iterator[NDArray[np.uint8]]]
    """Paths -> their images, (28, 28) each, in order."""
    output: Path
    """Folder for the Parquet files."""
    onnx: Path
    """The network."""
    shard_size: int = SHARD_SIZE

    def __call__(self, paths: Sequence[str], worker: int) -> Timeline:
        """Label a process's share."""
        cv2.setNumThreads(1)
        self.output.mkdir(exist_ok=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.onnx, options)
        images, timeline = self.read(paths), []
        for shard, start in enumerate(range(0, len(paths), self.shard_size)):
            chunk = paths[start : start + self.shard_size]
            results = []
            for i in range(0, len(chunk), BATCH_SIZE):
                batch = np.stack(list(islice(images, min(BATCH_SIZE, len(chunk) - i))))
                results += session.run(["probabilities"], {"images": batch})
            rows = build_rows(np.concatenate(results), path=chunk)
            pq.write_table(rows, self.output / f"{worker}-{shard}.parquet")
            timeline.append((time.time(), len(chunk)))
        return timeline


@dataclass(frozen=True)
class OwnSteps:
    """What `mnist-ocr` does with each shard, its table and checksum included."""

    read: Callable[[Sequence[str]], Iterable[bytes]]
    """Paths -> their contents, in order."""
    output: Path
    """Folder for the Parquet files."""
    model: Model
    shard_size: int = SHARD_SIZE

    def __call__(self, paths: Sequence[str], worker: int) -> Timeline:
        """Label a process's share."""
        cv2.setNumThreads(1)
        classifier = DigitClassifier(self.model, num_threads=1)
        store, timeline = LocalStore(str(self.output)), []
        for shard, start in enumerate(range(0, len(paths), self.shard_size)):
            chunk = paths[start : start + self.shard_size]
            predictions = classifier.predict_batch(prepare_images(self.read(chunk), len(chunk)))
            ids = pa.chunked_array([np.arange(start, start + len(chunk))])
            table = build_table(ids, pa.chunked_array([chunk]), predictions, threshold=None)
            data = encode_table(table, {})
            store.write(f"{worker}-{shard}.parquet", data)
            timeline.append((time.time(), len(chunk)))
        return timeline
