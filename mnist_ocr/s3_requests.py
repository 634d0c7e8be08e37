"""Requests to one bucket: paced, repeated while the store fails, counted."""

import math
import random
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from mnist_ocr.errors import ObjectError
from mnist_ocr.pacing import Pacer
from mnist_ocr.s3_clients import S3Clients, connect, find_region
from mnist_ocr.s3_errors import FAILURES, is_outage, is_region_wrong, is_throttled
from mnist_ocr.traffic import TrafficMeter

RETRY_TIMEOUT_S = 40
"""Seconds for which a request is repeated while the store fails: SlowDown, restarts, no network."""

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
"""Before a request is repeated; doubled each time, and drawn from 0 up to it ("full jitter",
Brooker, AWS Architecture Blog, 2015)."""

MAX_BACKOFF_IF_THROTTLED_S = 1.0
"""The pace slows all requests; for the last few of a shard, a longer wait leaves a worker idle."""

T = TypeVar("T")


class S3Requests:
    """Sends requests to a bucket from any number of threads.

    Args:
        uri: Of a folder in it, for error messages.
        bucket: Its name.
        meter: Counts them.
        anonymous: Sign nothing.

    Raises:
        UsageError: no such profile, or no credentials.
    """

    def __init__(self, uri: str, bucket: str, meter: TrafficMeter, *, anonymous: bool) -> None:
        self._uri, self._bucket, self._anonymous = uri, bucket, anonymous
        self.clients = connect(uri, bucket, anonymous=anonymous)
        self._pacer = Pacer()
        self._lock = threading.Lock()
        self._meter = meter

    @property
    def max_in_flight(self) -> int:
        """Requests that may be under way at once."""
        return self._pacer.max_in_flight

    def send(
        self,
        request: Callable[[S3Clients], T],
        explain: Callable[[Exception], Exception],
        outage_timeout_s: float = RETRY_TIMEOUT_S,
    ) -> T:
        """One request, at the store's pace, repeated while it is overloaded or away.

        Args:
            request: Sends it.
            explain: The error of one that failed for good.
            outage_timeout_s: How long to repeat what gets no answer.
        """
        self._pacer.begin()
        try:
            return self._send_repeatedly(request, explain, outage_timeout_s)
        finally:
            self._pacer.end()

    def _send_repeatedly(
        self,
        request: Callable[[S3Clients], T],
        explain: Callable[[Exception], Exception],
        outage_timeout_s: float,
    ) -> T:
        failing_since = math.inf
        for attempt in count():
            self._pacer.wait()
            clients, sent = self.clients, time.monotonic()
            try:
                result = request(clients)
            except ObjectError:
                self._count_answer(sent, 0)
                raise
            except FAILURES as error:
                throttled = is_throttled(error)
                self._count_failure(throttled)
                if not attempt and is_region_wrong(error) and self._move(clients, error):
                    continue
                # from its end on: also one that has taken all the time there is is sent again
                failing_since = min(failing_since, time.monotonic())
                patience_s = RETRY_TIMEOUT_S if throttled else outage_timeout_s
                is_over = time.monotonic() - failing_since > patience_s
                if is_over or not (throttled or is_outage(error)):
                    raise explain(error) from error
                max_backoff_s = MAX_BACKOFF_IF_THROTTLED_S if throttled else MAX_BACKOFF_S
                backoff_s = min(FIRST_BACKOFF_S * 2**attempt, max_backoff_s)
                time.sleep(random.uniform(0, backoff_s))
            else:
                self._count_answer(sent, len(result) if isinstance(result, bytes) else 0)
                return result
        raise AssertionError

    def _count_answer(self, sent: float, num_bytes: int) -> None:
        self._pacer.note_answer()
        self._meter.count_answer(num_bytes, time.monotonic() - sent)

    def _count_failure(self, throttled: bool) -> None:
        if throttled:
            self._pacer.note_throttled()
        self._meter.count_failure(throttled)

    def _move(self, asked: S3Clients, error: Exception) -> bool:
        """Connect to the region that the bucket lies in; whether there is another one to try."""
        with self._lock:
            if self.clients is not asked:
                return True  # another thread has moved
            region = find_region(asked, self._bucket, error)
            if region in {None, asked.region}:
                return False
            self.clients = connect(
                self._uri, self._bucket, anonymous=self._anonymous, region=region
            )
            return True
