"""Iterators that run ahead."""

import threading
from collections.abc import Generator

import pytest

from mnist_ocr.errors import StorageUnreachableError
from mnist_ocr.labelling.ahead import run_ahead


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
