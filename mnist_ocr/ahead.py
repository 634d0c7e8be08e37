"""Work that threads do ahead of whoever takes its results, which come in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from queue import SimpleQueue
from threading import Event, Thread
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

Call = tuple[int, Callable[[], T]]
"""The bytes that its result takes, and what returns it."""

BLOCK_LENGTH, BLOCK_BYTES = 16, 4 * 1024**2
"""Calls of a block, and bytes of their results."""

SLOW_CALL_S = 50e-6
"""A file in the page cache is read in 10 us, or 25 while all cores are busy; one on a disk in 110,
of which 8 threads make 40 (ext4 on a virtual disk, 4 KB files, 2 cores)."""


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
    is_full: Callable[[int, int], bool],
) -> Iterator[T]:
    """What calls return, as many of them under way as there is room for.

    Args:
        pool: Of threads.
        calls: In order.
        is_full: Whether so many calls with so many bytes in all leave no room for another.
    """
    ahead = deque[tuple[int, Future[T]]]()
    num_bytes_ahead = 0
    for num_bytes, call in calls:
        while ahead and is_full(len(ahead), num_bytes_ahead + num_bytes):
            taken, result = ahead.popleft()
            num_bytes_ahead -= taken
            yield result.result()
        ahead.append((num_bytes, pool.submit(call)))
        num_bytes_ahead += num_bytes
    while ahead:
        yield ahead.popleft()[1].result()


def call_in_blocks(calls: Iterable[Call[T]], num_threads: int) -> Iterator[T]:
    """What calls return, by this thread alone as long as they are quick: more would slow it down.

    Args:
        calls: In order.
        num_threads: From the first slow block on.
    """
    blocks = _cut(calls)
    for _, call_block in blocks:
        started = perf_counter()
        results = call_block()
        is_slow = perf_counter() - started > SLOW_CALL_S * len(results)
        yield from results
        if is_slow:
            break
    with ThreadPoolExecutor(num_threads, "ahead") as pool:
        ahead = call_ahead(pool, blocks, lambda num_blocks, _: num_blocks >= num_threads)
        yield from chain.from_iterable(ahead)


def _cut(calls: Iterable[Call[T]]) -> Iterator[Call[list[T]]]:
    block: list[Callable[[], T]] = []
    num_bytes = 0
    for size, call in calls:
        if block and (len(block) == BLOCK_LENGTH or num_bytes + size > BLOCK_BYTES):
            yield num_bytes, partial(_call_all, block)
            block, num_bytes = [], 0
        block.append(call)
        num_bytes += size
    if block:
        yield num_bytes, partial(_call_all, block)


def _call_all(calls: Iterable[Callable[[], T]]) -> list[T]:
    return [call() for call in calls]
