"""A bucket of any number of keys that holds none of them, behind a listing like S3's."""

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from mnist_ocr.errors import StorageUnreachableError
from mnist_ocr.storage import PAGE_SIZE, ByteRange, ObjectInfo, Page, Store


@dataclass(frozen=True)
class NumberedNames(Sequence[str]):
    """`img_00000000.png`, ...: computed, in order."""

    num_names: int

    def __len__(self) -> int:
        return self.num_names

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        """The i-th name."""
        if isinstance(i, slice):
            return [f"img_{j:08d}.png" for j in range(*i.indices(self.num_names))]
        if not 0 <= i < self.num_names:
            raise IndexError(i)
        return f"img_{i:08d}.png"


class SimulatedStore(Store):
    """A listing in pages, each a request.

    Args:
        names: Of its objects, in the order of their UTF-8.
        page_size: Of them in a page, at most.
        max_lanes: Listings that are worth doing at once.
        latency_s: Seconds that a request of 1,000 names takes; of one name, a tenth.
        num_requests_until_outage: From then on, until it is set to None, no request is answered.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        page_size: int = PAGE_SIZE,
        max_lanes: int = 32,
        latency_s: float = 0.0,
        num_requests_until_outage: int | None = None,
    ) -> None:
        super().__init__("simulated://bucket")
        self.names = names
        self.max_lanes = max_lanes
        self.num_requests_until_outage = num_requests_until_outage
        self.num_pages = 0
        """Requests of whole pages."""
        self.num_probes = 0
        """Requests of one name."""
        self._page_size = page_size
        self._latency_s = latency_s
        self._lock = threading.Lock()

    def list(
        self, prefix: str = "", start_after: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[Page]:
        """Pages; the names may change between two of them."""
        page_size = min(page_size, self._page_size)
        last = start_after or None
        while True:
            self._count(page_size)
            start = bisect_left(self.names, prefix)
            if last is not None:
                start = max(start, bisect_right(self.names, last))
            found = [
                ObjectInfo(name, 300, "e")
                for name in self.names[start : start + page_size]
                if name.startswith(prefix)
            ]
            if found:
                yield found
                last = found[-1].name
            if len(found) < page_size:
                return

    def _count(self, page_size: int) -> None:
        with self._lock:
            if page_size == 1:
                self.num_probes += 1
            else:
                self.num_pages += 1
            limit = self.num_requests_until_outage
            if limit is not None and self.num_probes + self.num_pages > limit:
                raise StorageUnreachableError(f"No usable answer for {self.uri}.")
        time.sleep(self._latency_s / (10 if page_size == 1 else 1))

    def read(
        self, name: str, etag: str = "", max_bytes: int | None = None, size: int = -1
    ) -> bytes:
        """Nothing is stored."""
        raise NotImplementedError

    def read_range(self, wanted: ByteRange) -> bytes:
        """Nothing is stored."""
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        """Nothing is stored."""
        raise NotImplementedError

    def delete(self, name: str) -> None:
        """Nothing is stored."""
        raise NotImplementedError
