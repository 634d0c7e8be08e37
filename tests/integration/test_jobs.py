"""`ray job` through the real command line to a real head, in token mode."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from heads import Head

from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.verification import verify

NUM_IMAGES, SHARD_SIZE = 48, 4
NUM_SERVED = 20
"""Images that the server gives before it stalls."""


def find_result(log: str) -> dict[str, object]:
    """What the command printed last, one JSON object."""
    return json.loads(next(line for line in reversed(log.splitlines()) if line.startswith("{")))


@pytest.fixture(scope="module")
def model(head: Head, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Trained by a job that brings the code of its folder along."""
    model = tmp_path_factory.mktemp("jobs") / "model"
    train = ["python", "jobs/train.py", "--dataset", "digits", "--recipe", "mlp-128"]
    train += ["--num-epochs", "2", "--model-uri", str(model)]
    options = ["--submission-id", "training", "--working-dir", "."]
    log = head.submit(*options, "--", *train, cwd=repository)
    assert find_result(log)["model_uri"] == str(model)
    return str(model)


def test_trained_model_is_evaluated(head: Head, model: str) -> None:
    """By the bare command, from anywhere: it runs in the folder where the head was started."""
    log = head.submit("--", "python", "jobs/evaluate.py", model, "--dataset", "digits")
    evaluation = find_result(log)
    assert evaluation["num_images"] == 797
    assert 0.5 < float(str(evaluation["accuracy"])) < 1


def test_job_is_followed_from_elsewhere(head: Head, tmp_path: Path) -> None:
    """With `--no-wait` a search is left alone; its log can be followed, its status asked for."""
    tune = ["python", "jobs/tune.py", "--dataset", "digits", "--recipe", "mlp-128"]
    tune += ["--num-trials", "2", "--num-epochs", "1", "--output-uri", str(tmp_path / "search")]
    said = head.submit("--no-wait", "--submission-id", "search", "--", *tune)
    assert "validation" not in said
    followed = head.run_job_command("logs", "--follow", "search").stdout
    assert find_result(followed)["output_uri"] == str(tmp_path / "search")
    assert "Job 'search' succeeded" in head.run_job_command("status", "search").stdout


def test_doctor_is_a_job(head: Head, model: str, tmp_path: Path) -> None:
    """It looks at the driver and at every node of the cluster that it was submitted to."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/1.png").write_bytes(
        cv2.imencode(".png", np.zeros((28, 28), np.uint8))[1].tobytes()
    )
    doctor = ["python", "jobs/doctor.py", "--input-uri", str(tmp_path / "scans")]
    doctor += ["--output-uri", str(tmp_path / "out"), "--model-uri", model]
    log = head.run_job_command("submit", "--", *doctor).stdout  # this machine may have problems
    said = find_result(log)["lines"]
    tried = {"versions", "token", "input", "output", "model"}
    assert {each["level"] for each in said if each["check"] in tried} == {"ok"}, log
    nodes = {each["check"]: set[str]() for each in said}
    for each in said:
        nodes[each["check"]].update(each["machines"])
    assert {len(nodes[check]) for check in tried} == {2}, log


def test_failed_job_says_why(head: Head, tmp_path: Path) -> None:
    """The job's status is FAILED and its log ends with one sentence."""
    label = ["python", "jobs/label.py", "/nowhere", str(tmp_path / "out"), "--model-uri", "/none"]
    failed = head.run_job_command("submit", "--", *label)
    assert failed.returncode == 1
    assert "error: /none is not a model directory" in failed.stdout
    assert "Traceback" not in failed.stdout


class ImageServer(ThreadingHTTPServer):
    """Serves one image under any name, and stalls after `NUM_SERVED` until it is released."""

    daemon_threads = True

    def __init__(self) -> None:
        image = np.zeros((28, 28), np.uint8)
        image[4:24, 14] = 255
        body = cv2.imencode(".png", image)[1].tobytes()
        self.gets = gets = Counter[str]()
        self.is_released = is_released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gets[self.path] += 1
                if gets.total() > NUM_SERVED:
                    is_released.wait()
                with suppress(OSError):  # whoever asked may be gone
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    """On a port of its own."""
    with ImageServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.is_released.set()
        server.shutdown()
        thread.join()


def test_stopped_job_resumes(head: Head, model: str, server: ImageServer, tmp_path: Path) -> None:
    """`ray job stop` in the middle, then the same command: nothing finished is fetched again."""
    output = tmp_path / "out"
    uris = [f"http://127.0.0.1:{server.server_port}/{i:02d}.png" for i in range(NUM_IMAGES)]
    (tmp_path / "list.txt").write_text("\n".join(uris))
    label = ["python", "jobs/label.py", str(tmp_path / "list.txt"), str(output)]
    label += ["--model-uri", model, "--shard-size", str(SHARD_SIZE)]
    head.submit("--no-wait", "--submission-id", "stopped", "--", *label)
    deadline = time.monotonic() + 120
    while server.gets.total() <= NUM_SERVED:
        assert time.monotonic() < deadline, head.run_job_command("logs", "stopped").stdout
        time.sleep(0.05)
    assert "RUNNING" in head.run_job_command("status", "stopped").stdout
    assert "was stopped" in head.run_job_command("stop", "stopped").stdout
    log = head.run_job_command("logs", "stopped").stdout
    assert "error: Stopped. The same command goes on where it was." in log
    assert "Traceback" not in log

    finished = pd.read_parquet(output)["path"].tolist()
    assert 0 < len(finished) <= NUM_SERVED
    assert not (output / "_SUCCESS").exists()
    server.gets.clear()
    server.is_released.set()
    summary = find_result(head.submit("--", *label))
    assert summary["statuses"] == {"ok": NUM_IMAGES}
    assert summary["num_images_this_run"] == NUM_IMAGES - len(finished)
    assert not {uri.rpartition("/")[2] for uri in finished[1:]} & {p[1:] for p in server.gets}
    assert sorted(pd.read_parquet(output)["path"]) == uris
    assert verify(VerifyConfig(str(output))).problems == []
    files = [path for path in output.rglob("*") if path.is_file()]
    assert not any(head.token.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("path", ["/api/version", "/api/jobs/", "/nodes?view=summary"])
def test_request_without_the_token_is_refused(head: Head, path: str) -> None:
    """401 without one, 403 with another, 200 with the right one."""
    assert head.request(path)[0] == 401
    assert head.request(path, "0" * 64)[0] == 403
    assert head.request(path, head.token)[0] == 200


def test_token_is_nowhere_but_in_its_file(head: Head, model: str) -> None:
    """Not in a log, nor in what is known of a job, nor in what a job writes."""
    _, known = head.request("/api/jobs/training", head.token)
    listed = head.run_job_command("list").stdout
    logged = head.run_job_command("logs", "training").stdout
    assert all(model in text for text in (known, listed, logged))
    assert not any(head.token in text for text in (known, listed, logged))
    files = [path for folder in (head.home, Path(model)) for path in folder.rglob("*")]
    holding = [
        path for path in files if path.is_file() and head.token.encode() in path.read_bytes()
    ]
    assert holding == [head.home / ".ray/auth_token"]
    assert len(list(head.logs.rglob("*"))) > 20
