"""Work that is done ahead, and in what order its results come."""

import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import pytest

from mnist_ocr import ahead
from mnist_ocr.ahead import call_ahead, call_in_blocks, run_ahead
from mnist_ocr.errors import StorageUnreachableError


def test_items_are_made_before_they_are_taken() -> None:
    """All of them, though the first has been taken only."""
    made, all_made = [], threading.Event()

    def make() -> Generator[int, None, None]:
        for i in range(5):
            made.append(i)
            yield i
        all_made.set()

    items = run_ahead(make())
    assert next(items) == 0
    assert all_made.wait(10)
    assert made == [0, 1, 2, 3, 4]
    assert list(items) == [1, 2, 3, 4]


def test_error_comes_in_its_place() -> None:
    """Behind the items that were made before it."""

    def make() -> Generator[int, None, None]:
        yield 1
        raise StorageUnreachableError("away")

    items = run_ahead(make())
    assert next(items) == 1
    with pytest.raises(StorageUnreachableError, match="away"):
        next(items)


def test_closing_ends_the_thread() -> None:
    """What the iterator holds is released before close returns."""
    released = []

    def make() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            released.append(True)

    items = run_ahead(make())
    next(items)
    items.close()
    assert released == [True]
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_calls_that_wait_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there may be threads; the results come in order."""
    monkeypatch.setattr(ahead, "MAX_THREADS", 4)
    together = threading.Barrier(4)

    def call(i: int) -> int:
        block, at = divmod(i, ahead.BLOCK_LENGTH)
        if block == 0:
            time.sleep(0.001)
        elif block <= 4 and at == 0:
            together.wait(10)
        return i

    results = call_in_blocks((1, partial(call, i)) for i in range(10 * ahead.BLOCK_LENGTH))
    assert list(results) == list(range(10 * ahead.BLOCK_LENGTH))


def test_quick_calls_stay_in_the_thread() -> None:
    """Results are not made further ahead than a block."""
    threads = []

    def call() -> None:
        threads.append(threading.current_thread())

    results = call_in_blocks((1, call) for _ in range(50))
    next(results)
    assert threads == [threading.current_thread()] * ahead.BLOCK_LENGTH
    assert len(list(results)) == 49
    assert threads == [threading.current_thread()] * 50


@pytest.mark.parametrize("sleep_s", [0, 0.001])
def test_large_results_are_not_held_together(
    sleep_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of one each, and a block for each thread."""
    monkeypatch.setattr(ahead, "MAX_THREADS", 2)
    taken = most = 0
    made = count(1)

    def call() -> None:
        nonlocal most
        if sleep_s:
            time.sleep(sleep_s)
        most = max(most, next(made) - taken)

    for _ in call_in_blocks((ahead.BLOCK_BYTES, call) for _ in range(50)):
        taken += 1
    assert taken == 50
    assert most <= 2 + 1


def test_large_results_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls may be under way."""
    monkeypatch.setattr(ahead, "MAX_BYTES_AHEAD", 3)
    taken = most = 0
    made = count(1)

    def call() -> None:
        nonlocal most
        most = max(most, next(made) - taken)

    with ThreadPoolExecutor(8) as pool:
        for _ in call_ahead(pool, ((1, call) for _ in range(50)), lambda: 8):
            taken += 1
    assert taken == 50
    assert most <= 3 + 1


def test_error_of_a_call_that_waits_is_raised() -> None:
    """And the threads end."""

    def call(i: int) -> int:
        time.sleep(0.001)
        if i == ahead.BLOCK_LENGTH:
            raise StorageUnreachableError("away")
        return i

    with pytest.raises(StorageUnreachableError, match="away"):
        list(call_in_blocks((1, partial(call, i)) for i in range(50)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
