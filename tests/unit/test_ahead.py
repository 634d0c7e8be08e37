"""Work that is done ahead, and in what order its results come."""

import math
import threading
from collections.abc import Generator
from functools import partial

import pytest

from mnist_ocr import ahead
from mnist_ocr.ahead import call_in_blocks, run_ahead
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


def test_slow_calls_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are threads; the results come in order."""
    monkeypatch.setattr(ahead, "SLOW_CALL_S", 0)
    monkeypatch.setattr(ahead, "BLOCK_LENGTH", 1)
    together = threading.Barrier(4)

    def call(i: int) -> int:
        if 0 < i <= 4:
            together.wait(10)
        return i

    results = call_in_blocks(((1, partial(call, i)) for i in range(50)), num_threads=4)
    assert list(results) == list(range(50))


def test_quick_calls_stay_in_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are not made further ahead than a block."""
    monkeypatch.setattr(ahead, "SLOW_CALL_S", math.inf)
    threads = []
    results = call_in_blocks(
        ((1, lambda: threads.append(threading.current_thread())) for _ in range(50)), num_threads=4
    )
    next(results)
    assert threads == [threading.current_thread()] * ahead.BLOCK_LENGTH
    assert len(list(results)) == 49
    assert len(threads) == 50


@pytest.mark.parametrize("slow_call_s", [0, math.inf])
def test_large_results_are_not_held_together(
    slow_call_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of one each, and a block for each thread."""
    monkeypatch.setattr(ahead, "SLOW_CALL_S", slow_call_s)
    taken = made = most = 0

    def call() -> int:
        nonlocal made, most
        made += 1
        most = max(most, made - taken)
        return made

    calls = ((ahead.BLOCK_BYTES, call) for _ in range(50))
    for _ in call_in_blocks(calls, num_threads=2):
        taken += 1
    assert taken == 50
    assert most <= 2 + 1


def test_error_of_a_slow_call_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the threads end."""
    monkeypatch.setattr(ahead, "SLOW_CALL_S", 0)

    def fail() -> int:
        raise StorageUnreachableError("away")

    with pytest.raises(StorageUnreachableError, match="away"):
        list(call_in_blocks(((1, fail) for _ in range(50)), num_threads=4))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
