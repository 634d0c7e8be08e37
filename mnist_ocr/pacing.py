"""How fast, and how many at once: requests to a store that says 503 SlowDown when it has enough.

Two limits, both found by trying:

- Requests per second: none until the store throttles; then CUBIC (RFC 9438), as in botocore's
  adaptive mode: back to a share of what it just served, up to that again along a cubic curve that
  is flat there, and beyond. Workers that share a store do this each by itself and end with fair
  shares, as TCP's connections do.
- Requests in flight: twice what is under way at the measured rate and the least latency, as in BBR
  (Cardwell et al., 2016): enough for a distant store, without a queue at a near one.
"""

import math
import threading
import time
from collections.abc import Callable

MIN_IN_FLIGHT, MAX_IN_FLIGHT = 32, 512
"""Requests of one process; a store 50 ms away serves 10,000 a second to 512."""

WINDOW_S, MIN_IN_WINDOW = 1.0, 20
"""Seconds, and requests, over which a rate is measured: a store may count by the second."""

MIN_RATE = 2.0
"""Requests per second that a process never falls below."""

DECREASE = 0.85
"""What is left of the rate when the store throttles. RFC 9438 has 0.7 for queues of unknown length;
a rate that was just measured needs less of a step down."""

GROWTH = 0.4
"""Requests/s per s^3: RFC 9438's C, and botocore's."""

SAME_SHARE = 0.5
"""If requests are throttled at this part of an earlier share or more although they are fewer, then
it is not for their number, and still fewer would not help."""


class Pacer:
    """Tells the threads of one process when to send.

    Args:
        clock: Seconds.
        sleep: Waits for some.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._peak = math.inf
        """Requests/s served when the store last throttled."""
        self._cut_at = 0.0
        self._share_at_cut = self._rate_at_cut = 0.0
        self._window_at = clock()
        self._num_answers = self._num_throttled = 0
        self._min_latency_s = math.inf
        self.max_in_flight = MIN_IN_FLIGHT

    @property
    def max_rate(self) -> float:
        """Requests per second, infinite until the store throttles."""
        if self._peak == math.inf:
            return math.inf
        seconds_to_peak = math.cbrt(self._peak * (1 - DECREASE) / GROWTH)
        behind_peak = self._clock() - self._cut_at - seconds_to_peak
        return max(self._peak + GROWTH * behind_peak**3, MIN_RATE)

    def wait(self) -> None:
        """Return when the next request may be sent."""
        with self._lock:
            rate = self.max_rate
            if rate == math.inf:
                return
            now = self._clock()
            at = max(now, self._next_at)
            self._next_at = at + 1 / rate
        self._sleep(at - now)

    def note_answer(self, seconds: float) -> None:
        """A request was served."""
        with self._lock:
            self._num_answers += 1
            self._min_latency_s = min(self._min_latency_s, seconds)
            self._look()

    def note_throttled(self) -> None:
        """A request was refused for being one too many."""
        with self._lock:
            self._num_throttled += 1
            self._look()

    def _look(self) -> None:
        """At the end of a window, draw conclusions."""
        now = self._clock()
        seconds, num_sent = now - self._window_at, self._num_answers + self._num_throttled
        if seconds < WINDOW_S or num_sent < MIN_IN_WINDOW:
            return
        served, sent, share = (
            self._num_answers / seconds,
            num_sent / seconds,
            self._num_throttled / num_sent,
        )
        under_way = 2 * served * self._min_latency_s if self._num_answers else 0
        self.max_in_flight = round(min(max(under_way, MIN_IN_FLIGHT), MAX_IN_FLIGHT))
        is_for_their_number = (
            sent > self._rate_at_cut * (1 + DECREASE) / 2
            or not SAME_SHARE < share / self._share_at_cut < 1 / SAME_SHARE
        )
        if self._num_throttled and is_for_their_number:
            self._peak, self._cut_at = served, now
            self._rate_at_cut, self._share_at_cut = sent, share
        self._window_at, self._num_answers, self._num_throttled = now, 0, 0
