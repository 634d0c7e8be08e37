"""An iterator that a thread runs ahead of whoever takes its items."""

from collections.abc import Generator, Iterator
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


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
