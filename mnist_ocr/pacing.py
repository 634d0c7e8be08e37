"""How fast, and how many at once: requests to a store that says 503 SlowDown when it has enough.

Two limits, both found by trying:

- Requests per second: none until the store throttles; then CUBIC (RFC 9438), as in botocore's
  adaptive mode: back to a share of what it just served, up to that again along a cubic curve that
  is flat there, and beyond. Workers that share a store do this each by itself and end with fair
  shares, as TCP's connections do.
- Requests in flight: twice as many as long as that serves more, as a distant store does; tried
  again from time to time.
"""

import math
import threading
import time
from collections.abc import Callable

MIN_IN_FLIGHT, MAX_IN_FLIGHT = 16, 512
"""Requests of one process; a store 50 ms away serves 10,000 a second to 512."""

WINDOW_S, MIN_IN_WINDOW = 1.0, 20
"""Seconds with requests under way, and requests, over which a rate is measured: a store may count
by the second."""

MIN_RATE = 2.0
"""Requests per second that a process never falls below."""

DECREASE = 0.85
"""What is left of the rate when the store throttles. RFC 9438 has 0.7 for queues of unknown length;
a rate that was just measured needs less of a step down."""

GROWTH, MAX_GROWTH = 0.4, 1.3
"""Requests/s per s^3, RFC 9438's C and botocore's; and the factor that no window exceeds what was
served in the one before by, since nothing is learnt within a window."""

WINDOWS_TO_PEAK = 1.5
"""Windows that it takes at least to come back to the rate at which the store throttled."""

SAME_SHARE = 0.5
"""If requests are throttled at this part of an earlier share or more although they are fewer, then
it is not for their number, and still fewer would not help."""

GAIN = 1.2
"""More requests in flight pay if so much more is served."""

WINDOWS_TO_PROBE = 10
"""Windows until it is tried again whether more in flight pay."""


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
        self._seconds_to_peak = self._cut_at = 0.0
        self._share_at_cut = self._rate_at_cut = 0.0
        self._num_active = 0
        self._active_since = self._active_s = 0.0
        self._num_answers = self._num_throttled = 0
        self._served = 0.0
        """Requests/s, in the last window."""
        self.max_in_flight = MIN_IN_FLIGHT
        self._fewer, self._served_with_fewer = MIN_IN_FLIGHT, 0.0
        """Before more were sent at once; infinite while that is not being tried."""
        self._num_windows = 0

    @property
    def max_rate(self) -> float:
        """Requests per second, infinite until the store throttles."""
        if self._peak == math.inf:
            return math.inf
        behind_peak = self._clock() - self._cut_at - self._seconds_to_peak
        if behind_peak < 0:
            step = self._peak * (1 - DECREASE)
            return max(self._peak + step * (behind_peak / self._seconds_to_peak) ** 3, MIN_RATE)
        rate = self._peak + GROWTH * behind_peak**3
        return max(min(rate, MAX_GROWTH * max(self._served, self._peak)), MIN_RATE)

    def begin(self) -> None:
        """A request is to be sent, until `end`; the time between requests does not count."""
        with self._lock:
            if not self._num_active:
                self._active_since = self._clock()
            self._num_active += 1

    def end(self) -> None:
        """It has been answered for good."""
        with self._lock:
            self._num_active -= 1
            if not self._num_active:
                self._active_s += self._clock() - self._active_since

    def wait(self) -> None:
        """Return when the request may be sent, or sent again."""
        with self._lock:
            rate = self.max_rate
            if rate == math.inf:
                return
            now = self._clock()
            at = max(now, self._next_at)
            self._next_at = at + 1 / rate
        self._sleep(at - now)

    def note_answer(self) -> None:
        """A request was served."""
        with self._lock:
            self._num_answers += 1
            self._look()

    def note_throttled(self) -> None:
        """A request was refused for being one too many."""
        with self._lock:
            self._num_throttled += 1
            self._look()

    def _look(self) -> None:
        """At the end of a window, draw conclusions."""
        now = self._clock()
        seconds = self._active_s + now - self._active_since
        num_sent = self._num_answers + self._num_throttled
        if seconds < WINDOW_S or num_sent < MIN_IN_WINDOW:
            return
        served, share = self._num_answers / seconds, self._num_throttled / num_sent
        if self._num_throttled:
            self._cut(served, num_sent / seconds, share)
        else:
            self._try_more_in_flight(served)
        self._served = served
        self._active_since, self._active_s = now, 0.0
        self._num_answers = self._num_throttled = 0

    def _cut(self, served: float, sent: float, share: float) -> None:
        is_for_their_number = (
            sent > self._rate_at_cut * (1 + DECREASE) / 2
            or not SAME_SHARE < share / self._share_at_cut < 1 / SAME_SHARE
        )
        if not is_for_their_number:
            return
        self._peak, self._cut_at = max(served, MIN_RATE), self._clock()
        self._rate_at_cut, self._share_at_cut = sent, share
        window_s = max(WINDOW_S, MIN_IN_WINDOW / self._peak)
        self._seconds_to_peak = max(
            math.cbrt(self._peak * (1 - DECREASE) / GROWTH), WINDOWS_TO_PEAK * window_s
        )

    def _try_more_in_flight(self, served: float) -> None:
        self._num_windows += 1
        if served > GAIN * self._served_with_fewer or self._num_windows % WINDOWS_TO_PROBE == 0:
            self._served_with_fewer, self._fewer = served, self.max_in_flight
            self.max_in_flight = min(2 * self.max_in_flight, MAX_IN_FLIGHT)
        elif self._served_with_fewer < math.inf:
            self._served_with_fewer, self.max_in_flight = math.inf, self._fewer
