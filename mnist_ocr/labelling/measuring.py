"""What an image costs a worker, timed on a sample of the input: for `plan`.

On every core of this machine at once, one process each as in a labelling job: cores that are busy
together share caches, memory and, as vCPUs, the core itself, and are a third slower than one alone.
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from multiprocessing.synchronize import Barrier
from statistics import mean, median
from threading import BrokenBarrierError
from time import perf_counter, process_time
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.digits.decoding import name_format
from mnist_ocr.digits.model import Model
from mnist_ocr.errors import JobFailedError, ObjectError
from mnist_ocr.labelling.census import Kind
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.predictions import build_table, encode_table

MAX_PROCESSES = 16
"""Each reads the sample: on a large machine so many are told enough."""

NUM_LATENCIES = 16
"""Requests that are timed one by one."""

MIN_S = 0.5
"""Seconds for which the sample is repeated, at least."""

MAX_BATCH = 8192
"""Images that are decoded before they are predicted: a shard."""

BARRIER_TIMEOUT_S = 120
"""For a process to start, or to fetch and time a sample after which the next one begins."""


@dataclass(frozen=True)
class Cost:
    """Of an image, in seconds."""

    fetch: float
    """Of a core, for getting its bytes."""
    fetch_wait: float
    """Of a process, which has several requests in flight: the core's seconds and the waiting."""
    latency: float
    """Between a request and its answer, one at a time."""
    decode: float
    """Of a core, with canonicalising."""
    predict: float
    """Of a core."""
    write: float
    """Of a core, for its row."""


@dataclass(frozen=True)
class Measurement:
    """Of a kind of objects."""

    cost: Cost
    formats: Counter[str]
    """Images of the sample by format, as their first bytes say, or the reason why there is none."""
    mean_bytes: float
    """Of their contents."""


_arguments: tuple[Any, ...] = ()
"""What a process of the pool was started with; a pool has no other way to keep it for its tasks."""


def count_cpus() -> int:
    """CPUs that this process may use, where the system tells: in a container not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_kinds(
    input_uri: str,
    extensions: tuple[str, ...],
    model: Model,
    kinds: Sequence[Kind],
    *,
    anonymous: bool = False,
) -> list[Measurement]:
    """Read each kind's sample and time what a worker does with it.

    Raises:
        StorageUnreachableError: the store does not answer.
        JobFailedError: a process died.
    """
    num_processes = min(count_cpus(), MAX_PROCESSES)
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of the store's threads
    barrier = context.Barrier(num_processes)
    arguments = (input_uri, extensions, anonymous, model, barrier)
    with ProcessPoolExecutor(num_processes, context, _start_process, arguments) as pool:
        results = [_measure_together(pool, kind, num_processes) for kind in kinds]
    measurements = []
    for own in results:
        fields = Cost.__dataclass_fields__
        costs = {name: mean(getattr(one.cost, name) for one in own) for name in fields}
        measurements.append(replace(own[0], cost=Cost(**costs)))
    return measurements


def _measure_together(pool: Executor, kind: Kind, num_processes: int) -> list[Measurement]:
    """By each process: none takes a second task before all have met for their first."""
    try:
        futures = [pool.submit(_measure, kind) for _ in range(num_processes)]
        errors = [error for future in futures if (error := future.exception())]
        # an error of one breaks the barrier for the others
        for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise JobFailedError(
            f"A process that read a sample of {kind.ending or 'files without an ending'} died: "
            "too little memory, or a file that its decoder cannot bear. Give other --extensions, "
            "or a machine with more memory."
        ) from error


class _Worker:
    """A process that does what an actor of a labelling job does."""

    def __init__(
        self,
        input_uri: str,
        extensions: tuple[str, ...],
        anonymous: bool,
        model: Model,
        barrier: Barrier,
    ) -> None:
        cv2.setNumThreads(1)
        self._source = open_source(input_uri, extensions, anonymous=anonymous)
        self._classifier = DigitClassifier(model, num_threads=1)
        self._barrier = barrier

    def measure(self, kind: Kind) -> Measurement:
        """Time a kind's sample; the processes begin together."""
        sample = kind.sample
        self._barrier.wait(BARRIER_TIMEOUT_S)
        latencies = []
        for info in sample[:NUM_LATENCIES]:
            started = perf_counter()
            list(self._source.read_many([info]))
            latencies.append(perf_counter() - started)
        half = len(sample) // 2
        contents = list(self._source.read_many(sample[:half]))  # opens the connections
        started, cpu_started = perf_counter(), process_time()
        contents += self._source.read_many(sample[half:])
        # a stream has been read from its start, past the first half
        num_read = len(sample) - (0 if kind.num_in_stream > half else half)
        # with several in flight never more than one at a time, unless other programs were running
        fetch_wait = min((perf_counter() - started) / num_read, median(latencies))
        fetch = (process_time() - cpu_started) / num_read
        formats = Counter(
            content.status
            if isinstance(content, ObjectError)
            else name_format(content) or ("not_an_image" if content else "empty")
            if isinstance(content, bytes)
            else "pixels"
            for content in contents
        )
        decode, predict, write = self._time_stages(contents)
        cost = Cost(fetch, fetch_wait, median(latencies), decode, predict, write)
        sizes = [
            content.nbytes if isinstance(content, np.ndarray) else len(content)
            for content in contents
            if not isinstance(content, ObjectError)
        ]
        return Measurement(cost, formats, sum(sizes) / len(contents))

    def _time_stages(self, contents: Sequence[Any]) -> tuple[float, float, float]:
        """Seconds of a core for an image: decoding, predicting, its row."""
        seconds, num_images, size = np.zeros(3), 0, len(contents)
        self._run_stages(contents)  # warm
        while seconds.sum() < MIN_S:
            batch = list(islice(cycle(contents), size))
            spent = self._run_stages(batch)
            seconds += spent
            num_images += size
            if spent.sum() < MIN_S / 2:  # otherwise a larger one would take too long
                size = min(4 * size, MAX_BATCH)
        decode, predict, write = (seconds / num_images).tolist()
        return decode, predict, write

    def _run_stages(self, contents: Sequence[Any]) -> Any:
        times = [process_time()]
        batch = prepare_images(contents, len(contents), is_guarded=True)
        times.append(process_time())
        predictions = self._classifier.predict_batch(batch)
        times.append(process_time())
        ids = pa.chunked_array([pa.array(range(len(contents)), pa.int64())])
        paths = pa.chunked_array([pa.array([self._source.uri_of("")] * len(contents))])
        table = build_table(ids, paths, predictions, None)
        encode_table(table, {})
        times.append(process_time())
        return np.diff(times)


def _start_process(*arguments: Any) -> None:
    global _arguments
    _arguments = arguments


@cache
def _worker() -> _Worker:
    # not when the process starts: there errors are printed, and all that is told is that it died
    return _Worker(*_arguments)


def _measure(kind: Kind) -> Measurement:
    try:
        return _worker().measure(kind)
    except Exception:
        _arguments[-1].abort()
        raise
