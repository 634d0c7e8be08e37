"""A store that fails for a while."""

import random
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from faulty_proxy import FAULTS, serve_faults
from proxies import SLOW_DOWN, Answer, Policy, proxy
from services import S3Server, label_at

from mnist_ocr.errors import ObjectError
from mnist_ocr.storage import open_store
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import load_dataset

OUTAGE_S = 10.0

LIMIT = 200
"""GETs a second."""

NUM_THROTTLED, NUM_BEFORE_LIMIT = 7000, 1000
"""Images, and how many are served before there is a limit."""

SETTLING_S, MEASURED_S = 16, 8
"""Whole seconds: a worker that joins late, or has learnt nothing from refusals at random, takes ten
to find its share."""


def away(seconds: float) -> Policy:
    """503 for some seconds after the first request."""
    first: list[float] = []

    def decide(*_: object) -> Answer | None:
        first.append(time.monotonic())
        return SLOW_DOWN if time.monotonic() < first[0] + seconds else None

    return decide


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
    with proxy(rclone_server, away(OUTAGE_S)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        start = time.monotonic()
        open_store("s3://outage/model").write("checkpoint.safetensors", b"state")
        assert time.monotonic() - start >= OUTAGE_S
    with proxy(rclone_server, away(OUTAGE_S)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert open_store("s3://outage/model").read("checkpoint.safetensors") == b"state"
    with proxy(rclone_server, away(OUTAGE_S)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        dataset = load_dataset(DatasetConfig(dataset="s3://outage/scans"))
    assert sum(len(split.labels) for split in dataset.splits.values()) == 40


@pytest.mark.usefixtures("ray_session")
def test_throttled_job_settles_at_the_stores_limit(
    rclone_server: S3Server,
    tmp_path: Path,
    model_uri: str,
    digit_images: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """503 for 30% of the requests, then for all above 200 a second: every row is ok."""
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    folder = rclone_server.make_bucket("throttled")
    for i in range(NUM_THROTTLED):
        image = digit_images[i % len(digit_images)]
        (folder / f"{i:04d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    rng = random.Random(0)
    served = Counter[int]()
    refused = Counter[int]()
    limited_since: list[int] = []

    def throttle(method: str, path: str, _: object) -> Answer | None:
        if method != "GET" or ".png" not in path:
            return None
        second = int(time.monotonic())
        if served.total() < NUM_BEFORE_LIMIT:
            is_refused = rng.random() < 0.3
        else:
            limited_since.append(second)
            is_refused = served[second] >= LIMIT
        (refused if is_refused else served)[second] += 1
        return SLOW_DOWN if is_refused else None

    with proxy(rclone_server, throttle) as endpoint:
        options = ["--model-uri", model_uri, "--shard-size", "256", "--num-gpus-per-actor", "0"]
        summary = label_at(endpoint, "s3://throttled", str(tmp_path / "out"), *options)
    assert summary["statuses"] == {"ok": NUM_THROTTLED}
    assert summary["num_throttled"] == refused.total()
    start = limited_since[0] + SETTLING_S
    settled = range(start, start + MEASURED_S)  # before the workers run out of shards
    assert np.mean([served[second] for second in settled]) >= 0.85 * LIMIT, served
    assert np.mean([refused[second] for second in settled]) <= 0.15 * LIMIT, refused


@pytest.mark.parametrize("fault", FAULTS)
def test_disturbed_answer_is_never_taken_for_content(
    fault: str, rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of all answers: objects are read, listed and written right, or it is said why not."""
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"fault-{FAULTS.index(fault)}"
    folder = rclone_server.make_bucket(bucket)
    contents = {f"{i:03d}.bin": bytes([i]) * (300 + i) for i in range(80)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with serve_faults(rclone_server.endpoint, seed=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(f"s3://{bucket}")
        proxy.faults, proxy.rate = (fault,), 0.2
        infos = [info for page in store.list(page_size=20) for info in page]
        answers = dict(zip((info.name for info in infos), store.read_many(infos), strict=True))
        for i in range(10):
            store.write(f"written/{i}.bin", contents["001.bin"])
    assert proxy.done[fault] > 5
    assert answers.keys() == contents.keys()
    errors = {name: answer for name, answer in answers.items() if isinstance(answer, ObjectError)}
    assert {name: answers[name] for name in contents.keys() - errors} == {
        name: contents[name] for name in contents.keys() - errors
    }
    told = {"changed etag": {"changed"}, "wrong length": {"unreadable"}}.get(fault, set())
    assert {error.status for error in errors.values()} <= told
    assert len(errors) < 40
    assert {path.read_bytes() for path in folder.glob("written/*")} == {contents["001.bin"]}
