"""A crash on demand, for tests: `MNIST_OCR_CRASH_AT=shard-read:2` kills with SIGKILL.

Each process dies when it gets to the named step for the n-th time. The steps: docs/guarantees.md.
"""

import os
import signal
from collections import Counter

from mnist_ocr.errors import UsageError

VARIABLE = "MNIST_OCR_CRASH_AT"

_reached = Counter[str]()


def crash_point(step: str) -> None:
    """Die here, if the environment says so.

    Raises:
        UsageError: what it says makes no sense.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, number = wanted.partition(":")
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"{VARIABLE} is {wanted!r}. Set it to a step and a number: shard-read:1.")
    if name == step:
        _reached[step] += 1
        if _reached[step] == int(number):
            os.write(2, f"{VARIABLE}={wanted}\n".encode())  # of workers in Ray's logs
            os.kill(os.getpid(), signal.SIGKILL)
