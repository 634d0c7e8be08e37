"""Requests to a store that has a limit, simulated: no clock, no network."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from mnist_ocr.pacing import MAX_IN_FLIGHT, MIN_IN_FLIGHT, Pacer

Policy = Callable[[float], bool]
"""Time in seconds -> whether the request that arrives then is refused."""


def by_the_second(limit: int) -> Policy:
    """All above a number in each second."""
    seen = Counter[int]()

    def refuse(now: float) -> bool:
        seen[int(now)] += 1
        return seen[int(now)] > limit

    return refuse


def by_tokens(limit: int) -> Policy:
    """A bucket of a tenth of a second's tokens."""
    tokens, last = limit / 10, 0.0

    def refuse(now: float) -> bool:
        nonlocal tokens, last
        tokens, last = min(limit / 10, tokens + (now - last) * limit), now
        if tokens < 1:
            return True
        tokens -= 1
        return False

    return refuse


def at_random(share: float) -> Policy:
    """Whatever the rate."""
    rng = random.Random(0)
    return lambda now: rng.random() < share


def first(seconds: float, policy: Policy, then: Policy) -> Policy:
    """One after the other."""
    return lambda now: policy(now) if now < seconds else then(now)


def simulate(
    refuse: Policy, *, num_workers: int = 2, num_threads: int = 16, latency_s: float, seconds: int
) -> tuple[list[Counter[int]], Counter[int]]:
    """Requests served by second, of each worker, and those refused."""
    now = 0.0
    pauses: list[float] = []
    rng = random.Random(0)
    pacers = [Pacer(clock=lambda: now, sleep=pauses.append) for _ in range(num_workers)]
    served, refused = [Counter[int]() for _ in pacers], Counter[int]()
    order = count()
    events = [
        (rng.random() / 100, next(order), worker, 0, "ask")
        for worker in range(num_workers)
        for _ in range(num_threads)
    ]
    heapq.heapify(events)
    while events[0][0] < seconds:
        now, _, worker, attempt, what = heapq.heappop(events)
        pacer, delay, then = pacers[worker], 0.0, "ask"
        if what == "ask":
            if not attempt:
                pacer.begin()
            pacer.wait()
            delay, then = pauses.pop() if pauses else 0.0, "send"
        elif what == "send":
            delay, then = latency_s, "refused" if refuse(now) else "served"
        elif what == "served":
            pacer.note_answer()
            pacer.end()
            served[worker][int(now)] += 1
            attempt = 0
        else:
            pacer.note_throttled()
            refused[int(now)] += 1
            delay, attempt = rng.uniform(0, min(0.1 * 2**attempt, 1)), attempt + 1
        heapq.heappush(events, (now + delay, next(order), worker, attempt, then))
    return served, refused


def mean(values: Counter[int], start: int, end: int) -> float:
    return sum(values[second] for second in range(start, end)) / (end - start)


@pytest.mark.parametrize("policy", [by_the_second, by_tokens])
@pytest.mark.parametrize(
    ("limit", "num_workers", "num_threads", "latency_s"),
    [
        (200, 2, 16, 0.002),
        (200, 32, 16, 0.02),
        (50, 1, 16, 0.002),
        (1000, 4, 64, 0.02),
        (2000, 200, 4, 0.02),
    ],
)
def test_rate_settles_just_below_the_stores_limit(
    policy: Callable[[int], Policy],
    limit: int,
    num_workers: int,
    num_threads: int,
    latency_s: float,
) -> None:
    """After some seconds: within 10% of it, with few requests in vain, shared fairly."""
    served, refused = simulate(
        policy(limit),
        num_workers=num_workers,
        num_threads=num_threads,
        latency_s=latency_s,
        seconds=60,
    )
    assert 0.9 * limit < mean(sum(served, Counter()), 5, 60) <= 1.01 * limit + 1
    assert mean(refused, 15, 60) < 0.08 * limit
    if num_workers <= 4:  # those that send a few a second take longer to be even
        fair = limit / num_workers
        assert all(0.6 * fair < mean(worker, 20, 60) < 1.4 * fair for worker in served)


def test_refusals_at_random_do_not_stop_the_work() -> None:
    """A store that refuses 30% at any rate is used at a third of its speed or more, not at none."""
    served, _ = simulate(at_random(0.3), latency_s=0.02, seconds=60)
    unhindered, _ = simulate(lambda now: False, latency_s=0.02, seconds=5)
    assert mean(sum(served, Counter()), 30, 60) > mean(sum(unhindered, Counter()), 1, 5) / 8


def test_limit_after_refusals_at_random_is_found() -> None:
    """Whatever was learnt before."""
    policy = first(20, at_random(0.3), by_the_second(200))
    served, _ = simulate(policy, latency_s=0.002, seconds=40)
    assert 170 < mean(sum(served, Counter()), 25, 40) <= 200


def test_rate_follows_a_limit_that_rises() -> None:
    """As S3's does while it partitions a prefix."""
    policy = first(20, by_the_second(200), by_the_second(1000))
    served, _ = simulate(policy, latency_s=0.002, seconds=50)
    assert mean(sum(served, Counter()), 40, 50) > 800


def test_store_without_a_limit_is_not_slowed() -> None:
    """No request waits."""
    served, refused = simulate(lambda now: False, latency_s=0.01, seconds=3)
    assert mean(sum(served, Counter()), 1, 3) > 0.95 * 2 * 16 / 0.01
    assert not refused


@pytest.mark.parametrize(
    ("latency_s", "fewest", "most"),
    [(0.0005, MIN_IN_FLIGHT, 2 * MIN_IN_FLIGHT), (0.05, 256, MAX_IN_FLIGHT), (0.5, 512, 512)],
)
def test_distant_store_gets_more_requests_at_once(latency_s: float, fewest: int, most: int) -> None:
    """As many as pay where a core asks for 5,000 a second at most, and hardly more."""
    now = 0.0
    pacer = Pacer(clock=lambda: now)
    pacer.begin()
    for _ in range(60_000):
        now += max(latency_s / pacer.max_in_flight, 1 / 5000)
        pacer.note_answer()
    assert fewest <= pacer.max_in_flight <= most


def test_pauses_between_requests_do_not_count() -> None:
    """A worker that predicts does not read; the rate is that of reading."""
    now = 0.0
    pacer = Pacer(clock=lambda: now)
    for _ in range(5):
        pacer.begin()
        for _ in range(1000):
            now += 0.001
            pacer.note_answer()
        pacer.end()
        now += 9
    pacer.begin()
    for _ in range(1001):
        now += 0.001
        pacer.note_answer()
    pacer.note_throttled()
    for _ in range(1001):
        now += 0.001
        pacer.note_answer()
    assert 800 < pacer.max_rate < 1000
