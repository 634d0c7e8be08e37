"""Where the time goes."""

from collections import defaultdict
from time import perf_counter


class Stopwatch:
    """Seconds by stage, of one thread that does one stage after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """What was done since the last lap was this stage."""
        now = perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now
