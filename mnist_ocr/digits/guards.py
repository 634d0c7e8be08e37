"""Bounds on what decoding a file of untrusted origin may take of its process."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TIME_LIMIT_S: Final = 60
"""Seconds of the processor for an image, or for the few that are decoded without a look at the
clock; the slowest legal one was measured at 1.2 s."""

WAIT_LIMIT_S: Final = 600
"""The same by the clock: for what waits, since other processes may take the processor meanwhile."""

MEMORY_LIMIT: Final = 2 * 1024**3
"""Bytes that a process may take beside what it has: three times what the hungriest legal image and
256 MiB of files fetched ahead come to."""


@contextmanager
def limited() -> Iterator[None]:
    """Limit time and memory for the block: for decoding alone, since threads need memory, too."""
    with limited_time(), limited_memory():
        yield


@contextmanager
def limited_time() -> Iterator[None]:
    """End this process where the block takes longer than `TIME_LIMIT_S` or `WAIT_LIMIT_S`.

    By signals without a handler: a handler, or a thread, would wait for Python's lock, which a
    decoder that hangs may hold for ever.
    """
    signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)
    signal.alarm(WAIT_LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let allocations fail once this process has `MEMORY_LIMIT` more bytes than now (Linux only).

    Raises:
        MemoryError: in the block, unless it is a library that has asked for more.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    # RLIMIT_DATA and not RLIMIT_AS: address space is reserved by the gigabyte, by threads and pools
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(statm.read_text().split()[5]) * resource.getpagesize() + MEMORY_LIMIT
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
