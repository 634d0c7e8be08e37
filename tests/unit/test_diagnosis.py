"""What `doctor` makes of the facts of one machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_ocr.diagnosis import gpus
from mnist_ocr.diagnosis.bucket import Bucket, judge_bucket
from mnist_ocr.diagnosis.clock import judge_clock
from mnist_ocr.diagnosis.findings import Finding
from mnist_ocr.diagnosis.gpus import Gpus, compare_drivers, judge_gpus, look_at_gpus
from mnist_ocr.diagnosis.hardware import Disk, Hardware, judge_hardware, look_at_hardware
from mnist_ocr.diagnosis.token import Token, judge_token, look_at_token
from mnist_ocr.diagnosis.versions import hash_code, judge_versions, look_at_versions

VERSIONS = {"Python": "3.11.9", "ray": "2.60.0", "mnist-ocr": "0.1.0 (code 0123456789ab)"}


def levels(findings: object) -> dict[str, str]:
    """The level of each check."""
    return {finding.check: finding.level for finding in findings}


def test_same_versions_are_listed() -> None:
    """In one line."""
    [finding] = judge_versions(VERSIONS, VERSIONS)
    assert finding.level == "ok"
    assert finding.message == "Python 3.11.9, ray 2.60.0, mnist-ocr 0.1.0 (code 0123456789ab)"


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        ("ray", "2.59.0", "other versions: ray 2.59.0 (the driver has 2.60.0)"),
        ("Python", "3.12.1", "other versions: Python 3.12.1 (the driver has 3.11.9)"),
        ("mnist-ocr", "0.1.0 (code ba9876543210)", "other versions: mnist-ocr 0.1.0 (code ba98765"),
        ("ray", "", "not installed: ray"),
    ],
)
def test_other_versions_on_a_node_are_a_problem(name: str, found: str, message: str) -> None:
    """Of Python and of every package, and other code under the same version."""
    [finding] = judge_versions({**VERSIONS, name: found}, VERSIONS)
    assert finding.level == "problem"
    assert finding.message.startswith(message)
    assert "constraints.txt" in finding.remedy


def test_versions_are_those_installed() -> None:
    """And the code's hash is that of the files."""
    found = look_at_versions()
    assert found["ray"].startswith("2.60.")
    assert hash_code() in found["mnist-ocr"]


def test_any_change_of_the_code_changes_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name, too."""
    monkeypatch.setattr("mnist_ocr.__file__", str(tmp_path / "__init__.py"))
    hashes = [hash_code()]
    (tmp_path / "a.py").write_text("x = 1")
    hashes.append(hash_code())
    (tmp_path / "a.py").write_text("x = 2")
    hashes.append(hash_code())
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({*hashes, hash_code()}) == 4


GOOD = Hardware(
    num_cpus=8,
    memory_bytes=32 * 10**9,
    free_memory_bytes=20 * 10**9,
    num_open_files=65536,
    disks=(Disk("/", "Ray's spilled objects and TMPDIR", 200 * 10**9, 100 * 10**9),),
    store_folder="/dev/shm",
    shared_memory_bytes=16 * 10**9,
)
NODE = {"CPU": 8.0, "object_store_memory": 9e9}


def disk(free_bytes: int, total_bytes: int = 200 * 10**9) -> tuple[Disk, ...]:
    return (Disk("/tmp", "TMPDIR", total_bytes, free_bytes),)


@pytest.mark.parametrize("in_ray", [None, NODE])
def test_good_machine_is_ok(in_ray: dict[str, float] | None) -> None:
    """With Ray and without."""
    checks = ["cpus", "memory", "open files", "disk", "object store"]
    assert levels(judge_hardware(GOOD, in_ray)) == dict.fromkeys(checks, "ok")


@pytest.mark.parametrize(
    ("change", "in_ray", "check", "level"),
    [
        ({"num_cpus": 4}, NODE, "cpus", "warning"),
        ({"free_memory_bytes": 5 * 10**8}, None, "memory", "warning"),
        ({"num_open_files": 256}, None, "open files", "problem"),
        ({"num_open_files": 1024}, None, "open files", "warning"),
        ({"disks": disk(16_000_000, 16_000_000)}, None, "disk", "problem"),
        ({"disks": disk(5 * 10**9)}, None, "disk", "problem"),  # over 95% used
        ({"disks": disk(5 * 10**9, 50 * 10**9)}, None, "disk", "warning"),
        ({"shared_memory_bytes": 64_000_000}, None, "object store", "warning"),
        ({"store_folder": "/tmp"}, NODE, "object store", "warning"),
        ({}, {**NODE, "object_store_memory": 5e7}, "object store", "warning"),
    ],
)
def test_scarce_resource_is_said(
    change: dict[str, object], in_ray: dict[str, float] | None, check: str, level: str
) -> None:
    """With the remedy; nothing else is."""
    findings = list(judge_hardware(replace(GOOD, **change), in_ray))
    [bad] = [finding for finding in findings if finding.level != "ok"]
    assert (bad.check, bad.level) == (check, level)
    assert bad.remedy


def test_this_machine_has_hardware() -> None:
    """The facts are plausible, and folders on one disk share an entry."""
    found = look_at_hardware()
    assert found.num_cpus >= 1
    assert found.memory_bytes
    assert 0 < found.free_memory_bytes <= found.memory_bytes
    assert all(0 <= each.free_bytes <= each.total_bytes for each in found.disks)
    assert len({each.path for each in found.disks}) == len(found.disks)


def test_page_cache_of_a_container_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that has read a lot leaves a cgroup's `memory.current` near its limit."""
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("95000000\n")
    stat = "anon 5000000\nfile 90000000\ninactive_file 60000000\nactive_file 20000000\n"
    (tmp_path / "memory.stat").write_text(stat)
    monkeypatch.setattr("mnist_ocr.diagnosis.hardware.CGROUP", tmp_path)
    found = look_at_hardware()
    assert (found.memory_bytes, found.free_memory_bytes) == (100_000_000, 85_000_000)


L4 = Gpus(("NVIDIA L4",), "580.95", "", "2.9.0+cu128", 1)


@pytest.mark.parametrize(
    ("found", "num_in_ray", "level", "message"),
    [
        (Gpus(), 0, "ok", "none"),
        (Gpus(), None, "ok", "none"),
        (L4, 1, "ok", "1 x NVIDIA L4, driver 580.95, torch 2.9.0+cu128 sees 1"),
        (L4, None, "ok", "1 x NVIDIA L4"),
        (Gpus(), 1, "problem", "Ray counts 1, the driver (nvidia-smi) 0"),
        (replace(L4, num_in_torch=0), 1, "problem", "torch 2.9.0+cu128 sees 0 of 1"),
        (L4, 0, "warning", "Ray counts 0 of 1: the others stay idle"),
        (Gpus(trouble="nvidia-smi fails: x"), 0, "problem", "nvidia-smi fails: x"),
    ],
)
def test_gpus_that_do_not_count_up_are_said(
    found: Gpus, num_in_ray: float | None, level: str, message: str
) -> None:
    """Driver, Ray and torch have to see the same."""
    [finding] = judge_gpus(found, num_in_ray)
    assert finding.level == level
    assert finding.message.startswith(message)
    assert bool(finding.remedy) == (level != "ok")


def test_drivers_that_differ_are_said() -> None:
    """Of the nodes that have one."""
    assert list(compare_drivers({"a": "580", "b": "580"})) == []
    [finding] = compare_drivers({"a": "580", "b": "570", "c": "580"})
    assert finding.message == "drivers differ: 570, 580, 570 on b"


def test_gpus_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch is asked in a process of its own, and only where there are some."""
    monkeypatch.setattr(gpus, "ASK_TORCH", "print('2.9.0+cu128', 2)")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look_at_gpus() == Gpus()
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA L4, 580.95'\necho 'NVIDIA L4, 580.95'\n")
    smi.chmod(0o755)
    assert look_at_gpus() == Gpus(("NVIDIA L4",) * 2, "580.95", "", "2.9.0+cu128", 2)
    monkeypatch.setattr(gpus, "ASK_TORCH", "raise ImportError('libcudart')")
    assert look_at_gpus().trouble == "torch fails: ImportError: libcudart"
    smi.write_text("#!/bin/sh\necho 'No devices were found' >&2\nexit 6\n")
    assert look_at_gpus() == Gpus(trouble="nvidia-smi fails: No devices were found")


TOKEN = Token(is_on=True, is_variable=False, path="/home/ray/.ray/auth_token", mode=0o600)


@pytest.mark.parametrize(
    ("change", "is_node", "level", "message"),
    [
        ({}, True, "ok", "asked for"),
        ({"is_on": False, "mode": None}, False, "ok", "none yet"),
        ({"is_variable": True, "mode": None}, True, "ok", "asked for"),
        ({"mode": 0o644}, False, "problem", "/home/ray/.ray/auth_token has the mode 0644"),
        ({"mode": 0o640}, True, "problem", "/home/ray/.ray/auth_token has the mode 0640"),
        ({"is_on": False}, True, "warning", "Ray asks for no token"),
        ({"mode": None}, False, "problem", "RAY_AUTH_MODE is token, and there is no"),
    ],
)
def test_token_that_others_may_read_or_that_nobody_asks_for_is_said(
    change: dict[str, object], is_node: bool, level: str, message: str
) -> None:
    """With what to run."""
    [finding] = judge_token(replace(TOKEN, **change), is_node=is_node)
    assert finding.level == level
    assert finding.message.startswith(message)
    assert bool(finding.remedy) == (level != "ok")


def test_token_itself_is_not_among_the_facts(tmp_path: Path) -> None:
    """Neither the file's nor the variable's."""
    file = tmp_path / "token"
    file.write_text("s3cr3t")
    file.chmod(0o644)
    environment = {"RAY_AUTH_TOKEN": "s3cr3t", "RAY_AUTH_TOKEN_PATH": str(file)}
    found = look_at_token({**environment, "RAY_AUTH_MODE": "Token"})
    assert found == Token(is_on=True, is_variable=True, path=str(file), mode=0o644)
    assert "s3cr3t" not in str(found)


@pytest.mark.parametrize(
    ("skew_s", "level"),
    [(0.1, "ok"), (-4.9, "ok"), (60, "warning"), (-60, "warning"), (301, "problem")],
)
def test_clock_that_is_off_is_said(skew_s: float, level: str) -> None:
    """In which direction, too."""
    finding = judge_clock(skew_s, "the driver")
    assert finding.level == level
    if level != "ok":
        assert ("ahead of" if skew_s > 0 else "behind") in finding.message


BUCKET = Bucket("scans", "https://s3.amazonaws.com", "us-west-2", "us-west-2", 0.012, 0.3)


@pytest.mark.parametrize(
    ("change", "expected", "message"),
    [
        ({}, {"bucket": "ok", "clock": "ok"}, "takes under 20 ms"),
        ({"region": None, "clock_skew_s": None}, {"bucket": "ok"}, "scans in us-west-2"),
        ({"region_set": "us-east-1"}, {"bucket": "warning", "clock": "ok"}, "lies in us-west-2"),
        ({"latency_s": 0.25}, {"bucket": "warning", "clock": "ok"}, "request takes 250 ms"),
        ({"clock_skew_s": -1000.0}, {"bucket": "ok", "clock": "problem"}, "1,000 s behind the st"),
    ],
)
def test_bucket_that_is_elsewhere_slow_or_of_another_time_is_said(
    change: dict[str, object], expected: dict[str, str], message: str
) -> None:
    """As this machine sees it."""
    findings = list(judge_bucket(replace(BUCKET, **change)))
    assert levels(findings) == expected
    assert any(message in finding.message for finding in findings)


def test_findings_are_plain_values() -> None:
    """They travel between processes, and into JSON."""
    assert json.dumps(Finding("disk", "ok", "x")) == '["disk", "ok", "x", ""]'
