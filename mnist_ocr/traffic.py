"""What reading from a store took: requests, bytes, and how long answers took."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log2
from threading import Lock
from typing import Any

BUCKETS_PER_DOUBLING = 8
"""Resolution of the latencies: a bucket's middle is within 4.5% of what is in it."""


@dataclass
class Traffic:
    """Sums over requests; those of several workers add up."""

    num_requests: int = 0
    """All that were sent, the repeated ones too; of a local disk, the files opened."""
    num_throttled: int = 0
    """Of them, those that the store answered with 503 or 429: slow down."""
    num_bytes: int = 0
    """Of contents."""
    latencies: Counter[int] = field(default_factory=Counter)
    """Answers by latency: bucket b is around 2 ** (b / `BUCKETS_PER_DOUBLING`) microseconds; of
    stores behind a network only."""

    def count_answer(self, num_bytes: int, seconds: float | None = None) -> None:
        """Add one answered request.

        Args:
            num_bytes: Of the content.
            seconds: From its sending to its last byte; None for a disk.
        """
        self.num_requests += 1
        self.num_bytes += num_bytes
        if seconds is not None:
            self.latencies[round(BUCKETS_PER_DOUBLING * log2(max(seconds * 1e6, 1)))] += 1

    @property
    def num_failed(self) -> int:
        """Requests without a useful answer, nearly all of which were repeated; none of a disk."""
        return self.num_requests - self.latencies.total() if self.latencies else self.num_throttled

    def add(self, other: "Traffic") -> None:
        """Add another worker's, or another shard's."""
        self.num_requests += other.num_requests
        self.num_throttled += other.num_throttled
        self.num_bytes += other.num_bytes
        self.latencies.update(other.latencies)

    def latency_s(self, share: float) -> float | None:
        """Seconds that this share of the answers stayed below; None where none was timed."""
        rank = share * self.latencies.total()
        for bucket, count in sorted(self.latencies.items()):
            rank -= count
            if rank <= 0:
                return float(2 ** (bucket / BUCKETS_PER_DOUBLING) / 1e6)
        return None

    def encode(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"latencies": dict(self.latencies)}

    @classmethod
    def decode(cls, document: Mapping[str, Any]) -> "Traffic":
        """The other way round: JSON has no integer keys."""
        latencies = {int(bucket): count for bucket, count in document["latencies"].items()}
        return cls(**{**document, "latencies": Counter(latencies)})


class TrafficMeter:
    """Counts the requests that any number of threads send."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._traffic = Traffic()

    def count_answer(self, num_bytes: int, seconds: float | None = None) -> None:
        """One answered request, as `Traffic` counts it."""
        with self._lock:
            self._traffic.count_answer(num_bytes, seconds)

    def count_failure(self, throttled: bool) -> None:
        """One without a useful answer."""
        with self._lock:
            self._traffic.num_requests += 1
            self._traffic.num_throttled += throttled

    def take(self) -> Traffic:
        """What requests have come to since this was last called."""
        with self._lock:
            taken, self._traffic = self._traffic, Traffic()
        return taken
