"""`ray job submit` through the real command line to a real head."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from services import free_port

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A Ray head that was started in the repository's folder."""

    address: str
    environment: dict[str, str]

    def submit(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, until the job has ended."""
        command = [RAY, "job", "submit", "--address", self.address, *arguments]
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def head(repository: Path) -> Iterator[Head]:
    """`ray start --head` on free ports, with a home and a token of its own."""
    scratch = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths have to be short
    port, dashboard_port = free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "HOME": str(scratch),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    command += [f"--dashboard-port={dashboard_port}", f"--temp-dir={scratch}/ray"]
    for name in ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export"):
        command.append(f"--{name}-port={free_port()}")
    with (scratch / "head.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=repository,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, to end all of it
        )
    address = f"http://127.0.0.1:{dashboard_port}"
    try:
        wait_until_it_answers(f"{address}/api/version", process, scratch / "head.log")
        yield Head(address, environment)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # SIGTERM takes Ray half a minute
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


def test_jobs_train_and_label(head: Head, repository: Path, tmp_path: Path) -> None:
    """Training with `--working-dir .`, then labelling by the bare command from elsewhere."""
    model, scans, output = tmp_path / "model", tmp_path / "scans", tmp_path / "out"
    train = ["python", "jobs/train.py", "--dataset", "digits", "--recipe", "mlp-128"]
    train += ["--num-epochs", "2", "--model-uri", str(model)]
    trained = head.submit("--working-dir", ".", "--", *train, cwd=repository)
    assert trained.returncode == 0, trained.stdout
    assert '"test_accuracy": 0.' in trained.stdout
    assert (model / "model.json").exists()

    scans.mkdir()
    for i in range(20):
        image = np.zeros((28, 28), np.uint8)
        image[4:24, i + 2] = 255
        (scans / f"{i}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    label = ["python", "jobs/label.py", str(scans), str(output), "--model-uri", str(model)]
    # the entrypoint runs in the folder where the head was started
    labelled = head.submit("--", *label, cwd=tmp_path)
    assert labelled.returncode == 0, labelled.stdout
    assert pd.read_parquet(output)["status"].tolist() == ["ok"] * 20


def test_failed_job_says_why(head: Head, tmp_path: Path) -> None:
    """The job's status is FAILED and its log ends with one sentence."""
    label = ["python", "jobs/label.py", "/nowhere", str(tmp_path / "out"), "--model-uri", "/none"]
    failed = head.submit("--", *label, cwd=tmp_path)
    assert failed.returncode == 1
    assert "error: /none is not a model directory" in failed.stdout
    assert "Traceback" not in failed.stdout
