"""A listing in lanes: ranges of names that threads list at once, taken by turns.

    with Listing(source, [Lane()]) as listing:
        listing.take(8192)     # a run of objects from each lane by turns, so that they spread
        listing.frontier       # the lanes that are left: all it takes to go on another day
        listing.split()        # twice as many lanes

What comes next follows from the frontier and the names alone, never from which thread was quicker.
So a listing that was cut off goes on as it would have gone on, and a process that has been given up
but still lists writes what its successor writes.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Self

from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.sources import Entry, Source
from mnist_ocr.storage import PAGE_SIZE, ObjectInfo

RUN_LENGTH = 128
"""Entries that are taken from a lane before it is the next one's turn; an archive is never left
before its end, since neighbours in it share requests."""


class Lane(NamedTuple):
    """A range of a listing: what lies behind `after`, as far as the name `until`."""

    after: ObjectInfo | None = None
    """None for the beginning."""
    until: str = ""
    """Included; "" for the end."""

    @property
    def is_within_archive(self) -> bool:
        """Whether more members of an archive may follow."""
        return self.after is not None and bool(Locator.parse(self.after.etag).position)


class Listing:
    """A source's objects, listed in lanes, from a frontier on.

    Holds two pages of each lane: one being taken and one being fetched.

    Raises:
        UsageError: in `take` and `split`: what is listed is not there, or may not be listed.
        StorageUnreachableError: in `take` and `split`: the store does not answer.
    """

    def __init__(self, source: Source, frontier: Sequence[Lane]) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(source.max_lanes, "list")
        self._readers = deque(_LaneReader(source, lane, self._pool) for lane in frontier)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads; waits for their requests under way."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def frontier(self) -> list[Lane]:
        """What has not been taken yet."""
        return [reader.lane for reader in self._readers]

    def take(self, num_objects: int) -> list[ObjectInfo]:
        """The next so many objects, fewer at the end of the listing only."""
        taken: list[ObjectInfo] = []
        while self._readers and len(taken) < num_objects:
            taken += self._take_turn(num_objects - len(taken))
        return taken

    def _take_turn(self, num_objects: int) -> list[ObjectInfo]:
        reader = self._readers[0]
        objects: list[ObjectInfo] = []
        num_entries = 0
        while len(objects) < num_objects and (
            num_entries < RUN_LENGTH or reader.lane.is_within_archive
        ):
            num_wanted = max(RUN_LENGTH - num_entries, 1)
            entries = reader.take(min(num_wanted, num_objects - len(objects)))
            if not entries:
                self._readers.popleft()
                return objects
            objects += [info for info, is_chosen in entries if is_chosen]
            num_entries += len(entries)
        if not reader.lane.is_within_archive:
            self._readers.rotate(-1)
        return objects

    def split(self) -> None:
        """Split every lane in two, if there is room for as many and their names allow it."""
        if 2 * len(self._readers) > self._source.max_lanes:
            return
        names = self._pool.map(self._find_split, self.frontier)
        readers = deque[_LaneReader]()
        for reader, name in zip(self._readers, names, strict=True):
            if not name:
                readers.append(reader)
                continue
            after, until = reader.lane
            for lane in (Lane(after, name), Lane(ObjectInfo(name, 0, ""), until)):
                readers.append(_LaneReader(self._source, lane, self._pool))
        self._readers = readers

    def _find_split(self, lane: Lane) -> str:
        return self._source.find_split(lane.after, lane.until) if lane.after else ""


class _LaneReader:
    """The entries of a lane in order, a page ahead of the taker."""

    def __init__(self, source: Source, lane: Lane, pool: ThreadPoolExecutor) -> None:
        self.lane = lane
        """What has not been taken yet."""
        self._pool = pool
        self._entries = source.scan(lane.after, lane.until)
        self._page: list[Entry] = []
        self._num_taken = 0
        self._next_page = self._fetch()

    def _fetch(self) -> Future[list[Entry]]:
        return self._pool.submit(lambda: list(islice(self._entries, PAGE_SIZE)))

    def take(self, num_entries: int) -> list[Entry]:
        """The next so many, fewer at the lane's end only."""
        taken: list[Entry] = []
        while len(taken) < num_entries:
            if self._num_taken == len(self._page):
                page = self._next_page.result()
                if not page:
                    break
                self._page, self._num_taken = page, 0
                self._next_page = self._fetch()
            end = self._num_taken + num_entries - len(taken)
            part = self._page[self._num_taken : end]
            self._num_taken += len(part)
            taken += part
        if taken:
            self.lane = self.lane._replace(after=taken[-1][0])
        return taken
