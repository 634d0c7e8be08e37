"""`cluster/scale.py` with Ray's real autoscaler, whose nodes are processes of this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from services import free_port

RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).parents[2]
HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""What Ray's provider for tests takes for the head's id."""

COMMANDS = ("initialization", "setup", "head_setup", "worker_setup")
COMMANDS += ("head_start_ray", "worker_start_ray")

WAIT_UNTIL_GONE = """
import ray, time
ray.init(log_to_driver=False)
while ray.cluster_resources().get("CPU"):
    time.sleep(0.5)
"""


def node_type(resources: dict[str, int], max_workers: int) -> dict[str, object]:
    return {
        "resources": resources | {"object_store_memory": 10**8},
        "node_config": {},
        "min_workers": 0,
        "max_workers": max_workers,
    }


def describe_cluster(gcs_address: str) -> dict[str, object]:
    """What aws.yaml is for EC2, with smaller nodes."""
    return {
        "cluster_name": "test",
        "max_workers": 3,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "external",  # else Ray looks for a file that its wheel does not have
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "head_node_id": HEAD,
            "launch_multiple": True,
        },
        "auth": {},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": node_type({"CPU": 1, "GPU": 1}, 1),
            "cpu": node_type({"CPU": 2}, 2),
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{kind}_commands": [] for kind in COMMANDS},
    }


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """An autoscaled cluster: a head without CPUs, and nobody else. Yields what a driver sets."""
    scratch = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths have to be short
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = scratch / "cluster.json"
    config.write_text(json.dumps(describe_cluster(address)))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(scratch), "RAY_ADDRESS": address}
    # as `ray up` sets them, but for the ids, which Ray's provider for tests makes up
    autoscaler = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD}
    autoscaler |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD, "RAY_FAKE_CLUSTER": "1"}
    command = [RAY, "start", "--head", "--block", "--num-cpus=0", "--include-dashboard=false"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={scratch}/ray"]
    command += [f"--autoscaling-config={config}", "--object-store-memory=100000000"]
    for name in ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export"):
        command.append(f"--{name}-port={free_port()}")
    with (scratch / "head.log").open("w") as log:
        process = subprocess.Popen(
            command,
            env=environment | autoscaler | {"AUTOSCALER_UPDATE_INTERVAL_S": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_head(port, process, scratch / "head.log")
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for_head(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(log.read_text())


def scale(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cluster/scale.py"), *arguments]
    return subprocess.run(command, env=environment, text=True, capture_output=True)


def test_workers_come_when_asked_for_and_go_when_not(environment: dict[str, str]) -> None:
    """They are there when the command returns, stay while idle, and end after it lets go."""
    asked = scale(environment, "1", "--cpus", "3")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.splitlines()[-1] == "1/1 GPUs, 3/3 CPUs"
    time.sleep(6)  # twice the idle time
    again = scale(environment, "1", "--cpus", "3")
    assert again.stdout.splitlines()[0] == "1/1 GPUs, 3/3 CPUs"  # Ray's warnings come after it
    late = scale(environment, "2", "--timeout-s", "0")
    assert (late.returncode, late.stdout.splitlines()[0]) == (1, "1/2 GPUs")
    assert "error: not there after 0 s" in late.stderr
    assert "Nothing is asked for" in scale(environment, "0").stdout
    subprocess.run(
        [sys.executable, "-c", WAIT_UNTIL_GONE], env=environment, check=True, timeout=120
    )
