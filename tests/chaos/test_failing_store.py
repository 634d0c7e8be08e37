"""A store that fails for a while."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from services import S3Server

from mnist_ocr.storage import open_store
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import load_dataset

OUTAGE_S = 10.0


@contextmanager
def failing_proxy(server: S3Server, seconds: float) -> Iterator[str]:
    """An address that answers 503 SlowDown for some seconds after its first request."""
    target = server.endpoint.removeprefix("http://")
    first: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            first.append(time.monotonic())
            if time.monotonic() < first[0] + seconds:
                self.answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            connection = http.client.HTTPConnection(target)
            # with the Host that was signed
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            self.answer(response.status, dict(response.getheaders()), response.read())
            connection.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def test_ten_seconds_of_503_are_ridden_out(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is written and read, and a folder of digits is listed and loaded."""
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    client = rclone_server.client()
    client.create_bucket(Bucket="outage")
    rng = np.random.default_rng(0)
    for i in range(40):
        image = np.zeros((28, 28), np.uint8)
        image[5:24, 5:24] = rng.integers(128, 256, (19, 19))
        body = cv2.imencode(".png", image)[1].tobytes()
        client.put_object(Bucket="outage", Key=f"scans/{i % 2}/{i}.png", Body=body)
    with failing_proxy(rclone_server, OUTAGE_S) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        start = time.monotonic()
        open_store("s3://outage/model").write("checkpoint.safetensors", b"state")
        assert time.monotonic() - start >= OUTAGE_S
    with failing_proxy(rclone_server, OUTAGE_S) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert open_store("s3://outage/model").read("checkpoint.safetensors") == b"state"
    with failing_proxy(rclone_server, OUTAGE_S) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        dataset = load_dataset(DatasetConfig(dataset="s3://outage/scans"))
    assert sum(len(split.labels) for split in dataset.splits.values()) == 40
