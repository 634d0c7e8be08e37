"""What reading took, added up."""

import json

import pytest

from mnist_ocr.traffic import Traffic


def test_latencies_are_known_to_a_few_percent() -> None:
    """From the counts in buckets, of any size."""
    traffic = Traffic()
    for i in range(1, 1001):
        traffic.count_answer(10, i / 1000)
    assert traffic.latency_s(0.5) == pytest.approx(0.5, rel=0.05)
    assert traffic.latency_s(0.99) == pytest.approx(0.99, rel=0.05)
    assert (traffic.num_requests, traffic.num_bytes) == (1000, 10_000)


def test_traffic_of_workers_adds_up_and_crosses_as_json() -> None:
    """And what was never timed has no latency."""
    one, other = Traffic(5, 1, 100), Traffic()
    assert one.latency_s(0.5) is None
    other.count_answer(7, 0.001)
    one.add(Traffic.decode(json.loads(json.dumps(other.encode()))))
    assert (one.num_requests, one.num_throttled, one.num_bytes) == (6, 1, 107)
    assert one.latency_s(0.5) == pytest.approx(0.001, rel=0.05)
