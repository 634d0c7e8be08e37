"""When a request is sent again, by a clock that only its attempts move."""

import time

import pytest
from botocore.exceptions import ReadTimeoutError

from mnist_ocr.errors import StorageUnreachableError
from mnist_ocr.s3_clients import S3Clients
from mnist_ocr.s3_requests import RETRY_TIMEOUT_S, S3Requests
from mnist_ocr.traffic import TrafficMeter


class Store:
    """One that lets a number of requests wait, and then fails or answers them."""

    def __init__(self, num_failures: int, wait_s: float) -> None:
        self.num_failures, self.wait_s = num_failures, wait_s
        self.now = 0.0
        self.num_requests = 0

    def answer(self, clients: S3Clients) -> bytes:
        """A request's fate."""
        self.now += self.wait_s
        self.num_requests += 1
        if self.num_requests <= self.num_failures:
            raise ReadTimeoutError(endpoint_url="https://store")
        return b"answer"


def send(store: Store, monkeypatch: pytest.MonkeyPatch) -> bytes:
    requests = S3Requests("s3://bucket/", "bucket", TrafficMeter(), anonymous=True)
    monkeypatch.setattr(time, "monotonic", lambda: store.now)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return requests.send(store.answer, lambda error: StorageUnreachableError(str(error)))


def test_request_that_took_all_the_time_there_is_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long the first took, one of two fails."""
    store = Store(num_failures=1, wait_s=3 * RETRY_TIMEOUT_S)
    assert send(store, monkeypatch) == b"answer"
    assert store.num_requests == 2


def test_store_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many seconds of failing as a request is repeated for."""
    store = Store(num_failures=1000, wait_s=10)
    with pytest.raises(StorageUnreachableError, match="Read timeout"):
        send(store, monkeypatch)
    assert store.num_requests == RETRY_TIMEOUT_S / 10 + 2
