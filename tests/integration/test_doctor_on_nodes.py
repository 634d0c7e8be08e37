"""`doctor` on real clusters and stores, whole and broken."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
from ray._common.utils import get_ray_address_file
from services import S3Server, free_port

from mnist_ocr.diagnosis.bucket import look_at_bucket
from mnist_ocr.diagnosis.config import DoctorConfig
from mnist_ocr.diagnosis.doctor import diagnose
from mnist_ocr.diagnosis.findings import Line

RAY = str(Path(sys.executable).with_name("ray"))


def bad(lines: list[Line], machine: str) -> dict[str, str]:
    """What is wrong on a machine, by check."""
    return {
        line.check: line.message
        for line in lines
        if machine in line.machines and line.level == "problem"
    }


@pytest.fixture
def bucket(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket with a scan, as a folder; this process talks to its server."""
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    assert rclone_server.root
    folder = rclone_server.root / "patients"
    if not folder.exists():
        rclone_server.make_bucket("patients")
        (folder / "scans").mkdir()
        (folder / "scans/1.png").write_bytes(b"x")
    return folder


def test_good_cluster_and_store_have_no_problem(ray_session: str, bucket: Path) -> None:
    """Driver and node read, write and load the same; nothing is left in the bucket.

    Except for the GPU that the tests' Ray claims to have.
    """
    Path("~/.ray/auth_token").expanduser().chmod(0o600)  # Ray wrote it for all to read
    diagnosis = diagnose(
        DoctorConfig(ray_session, "s3://patients/scans/*.png", "s3://patients/labels")
    )
    [node] = diagnosis.nodes
    assert bad(diagnosis.lines, "driver") == {}
    assert bad(diagnosis.lines, node) == {"gpus": "Ray counts 1, the driver (nvidia-smi) 0"}
    good = {line.check: line for line in diagnosis.lines if line.level == "ok"}
    for check in ("versions", "input", "output", "model"):
        assert good[check].machines == ["driver", node], check
    assert good["input"].message == "read s3://patients/scans/1.png"
    assert good["bucket"].message.startswith("patients in us-east-1, http://127.0.0.1:")
    assert [path.name for path in bucket.rglob("*") if path.is_file()] == ["1.png"]


def test_credentials_are_each_machines_own(
    ray_session: str, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver with a wrong key is told so; the node, which has the right one, is well."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key-0123456")
    config = DoctorConfig(ray_session, "s3://patients/scans", "s3://patients/labels")
    diagnosis = diagnose(config)
    [node] = diagnosis.nodes
    wrong = bad(diagnosis.lines, "driver")
    assert wrong.keys() == {"input", "output"}
    assert all("rejects these credentials" in message for message in wrong.values())
    assert bad(diagnosis.lines, node).keys() == {"gpus"}
    assert "wrong-secret" not in json.dumps([line.message for line in diagnosis.lines])
    assert not list(bucket.rglob(".doctor*"))


@pytest.mark.usefixtures("bucket")
def test_bucket_that_is_not_there_is_named() -> None:
    """As input and as output."""
    diagnosis = diagnose(DoctorConfig(None, "s3://nowhere/scans", "s3://nowhere/labels"))
    wrong = bad(diagnosis.lines, "driver")
    assert wrong["input"].startswith("There is no bucket nowhere")
    assert wrong["output"].startswith("There is no bucket nowhere")


def test_store_says_where_a_bucket_lies_and_what_time_it_is(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever region is set here."""
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    place = {"LocationConstraint": "eu-central-1"}
    moto_server.client().create_bucket(Bucket="far", CreateBucketConfiguration=place)
    found = look_at_bucket("s3://far/scans", anonymous=False)
    assert (found.region, found.region_set) == ("eu-central-1", "us-east-1")
    assert found.clock_skew_s is not None
    assert abs(found.clock_skew_s) < 5
    diagnosis = diagnose(DoctorConfig(None, None, "s3://far/labels"))
    [line] = [line for line in diagnosis.lines if "lies in eu-central-1" in line.message]
    assert line.level == "warning"
    assert "AWS_DEFAULT_REGION=eu-central-1" in line.remedy


@dataclass(frozen=True)
class BrokenNode:
    """A second node of the tests' cluster, in a mount namespace of its own."""

    process: subprocess.Popen[bytes]
    small: Path
    """Its TMPDIR, of 16 MB."""
    output: Path
    """Which it may only read."""


@pytest.fixture
def broken_node(ray_session: str) -> Iterator[BrokenNode]:
    """A node with another onnxruntime, a small disk and a read-only folder; it takes no work."""
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        refuse = pytest.fail if os.environ.get("MNIST_OCR_TEST_DATA") else pytest.skip
        refuse("no mount namespaces here: run as root")
    scratch = Path(tempfile.mkdtemp(prefix="doctor-", dir="/tmp"))
    small, output, packages = scratch / "small", scratch / "out", scratch / "packages"
    info = packages / "onnxruntime-0.0.1.dist-info"
    for folder in (small, output, info):
        folder.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 0.0.1\n")
    mounts = (
        f"mount -t tmpfs -o size=16m tmpfs {small} && mount --bind {output} {output} && "
        f'mount -o remount,ro,bind {output} && exec "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", mounts, "sh", RAY, "start", "--block"]
    command += [f"--address={ray_session}", "--num-cpus=0", "--object-store-memory=100000000"]
    for name in ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export"):
        command.append(f"--{name}-port={free_port()}")
    path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(small), "RAY_AUTH_MODE": "token"}
    note = Path(get_ray_address_file(None))  # of which cluster this machine joins from now on
    noted = note.read_text() if note.exists() else None
    with (scratch / "node.log").open("w") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, to end all of it
        )
    try:
        wait_for_nodes(2, process, scratch / "node.log")
        yield BrokenNode(process, small, output)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
        if noted is None:
            note.unlink(missing_ok=True)
        else:
            note.write_text(noted)
        wait_for_nodes(1)


def wait_for_nodes(
    number: int, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    """Until the cluster has so many."""
    for _ in range(600):
        assert process is None or log is None or process.poll() is None, log.read_text()
        if sum(node["Alive"] for node in ray.nodes()) == number:
            return
        time.sleep(0.2)
    raise TimeoutError(log.read_text() if log else "a dead node counts as alive")


def test_node_that_is_broken_is_told_from_the_one_that_is_not(
    ray_session: str, broken_node: BrokenNode
) -> None:
    """Version, disk and folder; then it falls silent, which holds nobody up for long."""
    config = DoctorConfig(ray_session, None, str(broken_node.output))
    diagnosis = diagnose(config)
    own_id = ray.get_runtime_context().get_node_id()
    [head] = [name for name in diagnosis.nodes if own_id[:6] in name]
    [node] = {*diagnosis.nodes} - {head}
    wrong = bad(diagnosis.lines, node)
    assert wrong.keys() == {"versions", "disk", "output"}, diagnosis.format()
    assert wrong["versions"].startswith("other versions: onnxruntime 0.0.1 (the driver has ")
    assert f"of 17 MB in {broken_node.small} (TMPDIR)" in wrong["disk"]
    assert "Read-only file system" in wrong["output"]
    assert bad(diagnosis.lines, head).keys() <= {"gpus", "token"}
    assert list(broken_node.output.iterdir()) == []

    os.killpg(broken_node.process.pid, signal.SIGSTOP)
    diagnosis = diagnose(replace(config, timeout_s=15))
    [silent] = [line for line in diagnosis.lines if line.check == "cluster" and line.remedy]
    assert "has not answered within 15 s" in silent.message
    assert silent.machines == [node]
    assert bad(diagnosis.lines, head).keys() <= {"gpus", "token"}
