"""Work that threads do ahead of whoever takes its results, which come in order."""

import resource
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from math import ceil
from queue import SimpleQueue
from threading import Event, Thread
from time import perf_counter, thread_time
from typing import TypeVar

T = TypeVar("T")

Call = tuple[int, Callable[[], T]]
"""The bytes that its result takes, and what returns it."""

BLOCK_LENGTH, BLOCK_BYTES = 16, 4 * 1024**2
"""Most calls of a block, and bytes of their results."""

MAX_THREADS = 32
"""That wait for a network at once."""

MAX_BYTES_AHEAD = 256 * 1024**2
"""Bytes fetched and not yet taken, so that large files do not fill a worker's memory."""


def run_ahead(items: Generator[T, None, None]) -> Iterator[T]:
    """The same items, and the same error, made as fast as they can be; what waits is held.

    Closing what is returned closes `items`, behind the item that is being made.
    """
    queue = SimpleQueue[tuple[T] | BaseException | None]()
    stop = Event()

    def run() -> None:
        try:
            for item in items:
                queue.put((item,))
                if stop.is_set():
                    break
            items.close()
            queue.put(None)
        except BaseException as error:  # else the taker would wait for ever
            queue.put(error)

    thread = Thread(target=run, name="ahead", daemon=True)
    thread.start()
    try:
        while (made := queue.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]
    finally:
        stop.set()
        thread.join()


def call_ahead(
    pool: ThreadPoolExecutor,
    calls: Iterable[Call[T]],
    max_calls: Callable[[], int],
) -> Iterator[T]:
    """What calls return; several are under way, as long as they stay below `MAX_BYTES_AHEAD`.

    Args:
        pool: Of threads.
        calls: In order.
        max_calls: Most of them at this moment.
    """
    ahead = deque[tuple[int, Future[T]]]()
    num_bytes_ahead = 0
    for num_bytes, call in calls:
        while ahead and (
            len(ahead) >= max_calls() or num_bytes_ahead + num_bytes > MAX_BYTES_AHEAD
        ):
            taken, result = ahead.popleft()
            num_bytes_ahead -= taken
            yield result.result()
        ahead.append((num_bytes, pool.submit(call)))
        num_bytes_ahead += num_bytes
    while ahead:
        yield ahead.popleft()[1].result()


def call_in_blocks(calls: Iterable[Call[T]]) -> Iterator[T]:
    """What calls return, in order: by this thread alone until most calls of a block wait.

    For files in the page cache, more threads would double the 8 us that one takes; of files on a
    disk, four make 70 us of 120 (4 KB, ext4 on a virtual disk).
    """
    blocks = cut_into_blocks(calls)
    for _, call_block in blocks:
        wall_s, cpu_s, num_waits = perf_counter(), thread_time(), _count_waits()
        results = call_block()
        is_waiting = _count_waits() - num_waits > len(results) / 2
        wall_s, cpu_s = perf_counter() - wall_s, thread_time() - cpu_s
        yield from results
        if is_waiting:
            break
    else:
        return
    # as many as have work for one core; twice that, since waits differ
    num_threads = min(ceil(2 * wall_s / cpu_s), MAX_THREADS)
    with ThreadPoolExecutor(num_threads, "ahead") as pool:
        yield from chain.from_iterable(call_ahead(pool, blocks, lambda: num_threads))


def _count_waits() -> int:
    """How often this thread (on macOS: this process) has waited for a disk, a network, a lock.

    The clock does not tell: a thread that is merely not its turn loses milliseconds, too.
    """
    usage = resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF))
    return usage.ru_nvcsw


def cut_into_blocks(
    calls: Iterable[Call[T]], length: int = BLOCK_LENGTH
) -> Iterator[Call[list[T]]]:
    """Several calls as one, so that handing them to a thread costs less each.

    Args:
        calls: Those whose results take more than `BLOCK_BYTES` stay alone.
        length: Most calls of a block.
    """
    block: list[Callable[[], T]] = []
    num_bytes = 0
    for size, call in calls:
        if block and (len(block) == length or num_bytes + size > BLOCK_BYTES):
            yield num_bytes, partial(_call_all, block)
            block, num_bytes = [], 0
        block.append(call)
        num_bytes += size
    if block:
        yield num_bytes, partial(_call_all, block)


def _call_all(calls: Iterable[Callable[[], T]]) -> list[T]:
    return [call() for call in calls]
