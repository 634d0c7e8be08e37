"""`doctor`: what is tried, what is compared, and how it is said."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from mnist_ocr import cli
from mnist_ocr.diagnosis import cluster, doctor
from mnist_ocr.diagnosis.access import Trial, remove_trial, try_input, try_model, try_output
from mnist_ocr.diagnosis.config import DoctorConfig
from mnist_ocr.diagnosis.doctor import Diagnosis, diagnose
from mnist_ocr.diagnosis.findings import Finding, Line, merge
from mnist_ocr.diagnosis.looking import Trouble, explain, look_at_all
from mnist_ocr.diagnosis.machine import Report, judge_trial, new_file_name
from mnist_ocr.diagnosis.table import format_lines
from mnist_ocr.errors import StorageUnreachableError, UsageError
from mnist_ocr.local_store import LocalStore

SECRET = "s3cr3t-Zq81Xw"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "scans/2026").mkdir(parents=True)
    (tmp_path / "scans/2026/1.png").write_bytes(b"x")
    return tmp_path / "scans"


@pytest.mark.parametrize("uri", ["", "/2026", "/2026/1.png", "/2026/*.png", "/**"])
def test_input_is_read_whatever_it_is(uri: str, scans: Path) -> None:
    """Folder, file, pattern: the first object."""
    assert try_input(f"{scans}{uri}") == f"{scans}/2026/1.png"


@pytest.mark.parametrize("uri", ["/none", "/2026/2.png", "/hollow"])
def test_input_that_is_not_there_is_wrong(uri: str, scans: Path) -> None:
    """So is an empty one."""
    (scans / "hollow").mkdir()
    with pytest.raises(UsageError, match=r"does not exist|No objects|Check"):
        try_input(f"{scans}{uri}")


def test_output_is_left_as_it_was(tmp_path: Path) -> None:
    """The file is gone, a job's are untouched, and a folder that is not there is not made."""
    (tmp_path / "_job.json").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    trial = try_output(str(tmp_path), new_file_name())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert [finding.level for finding in judge_trial(trial)] == ["ok"]
    assert try_output(str(tmp_path / "new/folder"), new_file_name()).folder == str(tmp_path)
    assert not (tmp_path / "new").exists()


def test_file_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    """It is created where there is none."""
    (tmp_path / ".doctor-1").write_text("mine")
    with pytest.raises(FileExistsError):
        try_output(str(tmp_path), ".doctor-1")
    assert (tmp_path / ".doctor-1").read_text() == "mine"


def test_output_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    """A file in the place of a folder, for example."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Cannot write"):
        try_output(str(tmp_path / "file"), new_file_name())


def test_output_that_reads_back_otherwise_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file is deleted all the same."""
    monkeypatch.setattr(LocalStore, "read", lambda *_, **__: b"other")
    with pytest.raises(UsageError, match="reads other bytes than were written"):
        try_output(str(tmp_path), new_file_name())
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_deleted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning: labelling needs no such right."""
    monkeypatch.setattr(LocalStore, "delete", lambda *_: None)
    trial = try_output(str(tmp_path), ".doctor-1")
    [finding] = judge_trial(trial)
    assert finding.level == "warning"
    assert ".doctor-1 stays" in finding.message


def test_folder_that_only_has_the_same_name_is_found_out(tmp_path: Path) -> None:
    """A node looks for the file that the driver has left."""
    (tmp_path / "driver").mkdir()
    (tmp_path / "node").mkdir()
    left = try_output(str(tmp_path / "driver"), ".doctor-1", keep=True)
    assert not try_output(str(tmp_path / "driver"), ".doctor-2", ".doctor-1").is_kept
    with pytest.raises(UsageError, match=r"is not the driver's folder .* Mount the same"):
        try_output(str(tmp_path / "node"), ".doctor-2", ".doctor-1")
    assert not remove_trial(left).is_kept
    assert [list(folder.iterdir()) for folder in tmp_path.iterdir()] == [[], []]


def test_model_is_loaded_and_run(tmp_path: Path) -> None:
    """The shipped one, too."""
    assert "the model that comes with mnist-ocr" in try_model(None)
    with pytest.raises(UsageError, match="is not a model directory"):
        try_model(str(tmp_path))


def test_look_that_hangs_or_fails_does_not_hold_up_the_others() -> None:
    """It is named, and left behind."""
    release = threading.Event()
    found = look_at_all(
        {"good": lambda: 1, "hangs": release.wait, "fails": lambda: 1 // 0}, timeout_s=0.2
    )
    release.set()
    assert found["good"] == 1
    assert found["hangs"].message == "no answer within 0.2 s"
    assert found["fails"].message.startswith("ZeroDivisionError: ")


def test_error_is_split_into_what_is_wrong_and_what_to_do() -> None:
    """Their sentences are made for that."""
    found = explain(UsageError("Cannot write /out: Read-only file system. Make room."))
    assert found == Trouble("Cannot write /out: Read-only file system", "Make room.")
    found = explain(StorageUnreachableError("No answer from http://127.0.0.1:9: refused."))
    assert found.message == "No answer from http://127.0.0.1:9: refused"
    assert found.remedy


def test_same_finding_on_many_machines_is_one_line_without_secrets() -> None:
    """The worst first within a check."""
    ok = Finding("disk", "ok", "much")
    bad = Finding("disk", "problem", f"https://host/a?X-Amz-Signature={SECRET}", "x")
    other = Finding("token", "ok", "asked for")
    lines = merge([("driver", ok), ("a", ok), ("b", bad), ("driver", other)])
    assert [(line.check, line.level, line.machines) for line in lines] == [
        ("disk", "problem", ["b"]),
        ("disk", "ok", ["driver", "a"]),
        ("token", "ok", ["driver"]),
    ]
    assert SECRET not in str(lines)


def machines(number: int) -> list[str]:
    return [f"10.0.0.{i}" for i in range(number)]


@pytest.mark.parametrize("width", [80, 120])
def test_table_fits_the_terminal_however_large_the_cluster(width: int) -> None:
    """Lines are wrapped, and what is alike is counted."""
    nodes = machines(100)
    full = [
        Line("disk", "problem", [n], f"{n} MB free of 99 GB in /tmp", "Make room. " * 20)
        for n in nodes
    ]
    good = Line("versions", "ok", ["driver", *nodes], "Python 3.11.9, " * 12, "")
    some = Line("token", "warning", nodes[:9], "Ray asks for no token", "Run ray get-auth-token.")
    text = format_lines([good, *full, some], nodes, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 50
    assert lines[0].startswith("ok       versions      driver and all 100 nodes: Python 3.11.9")
    assert "problem  disk          10.0.0.0: 10.0.0.0 MB free of 99 GB in /tmp" in text
    assert "... and 95 more (in the JSON)" in text
    words = " ".join(text.split())
    assert "10.0.0.0, 10.0.0.1, 10.0.0.2, 6 more: Ray asks for no token" in words
    assert lines[-1] == "100 problems, 1 warning on the driver and 100 nodes"


def test_without_a_cluster_no_machine_is_named() -> None:
    """There is only this one."""
    text = format_lines([Line("cpus", "ok", ["driver"], "2", "")], [], 80)
    assert text.splitlines() == ["ok       cpus          2", "", "no problem on this machine"]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A cluster whose nodes are like the driver, but for what a test puts in their place."""
    changes: list[Any] = []

    def ask(request: Any) -> list[cluster.Node]:
        found = []
        for i, change in enumerate(changes):
            report = doctor.look_at_machine(request)
            report = Report({**report.facts, **change.get("facts", {})}, report.time_s)
            resources = {"CPU": 1.0, "object_store_memory": 2e9}
            node = cluster.Node(f"10.0.0.{i}", resources, report)
            found.append(replace(node, **{k: v for k, v in change.items() if k != "facts"}))
        return found

    monkeypatch.setattr(cluster, "join_cluster", lambda address, timeout_s: None)
    monkeypatch.setattr(cluster, "ask_nodes", ask)
    return changes


def test_node_that_differs_is_named(nodes: list[Any], scans: Path, tmp_path: Path) -> None:
    """By version, clock, rights or silence; the driver's file is gone at the end."""
    other = {"Python": "2.7", "ray": "2.60.0"}
    nodes += [
        {},
        {"facts": {"versions": other}, "clock_skew_s": 1000.0},
        {"facts": {"output": Trouble("Cannot write /out: Read-only file system", "Make room.")}},
        {"report": Trouble("the node has not answered within 60 s", "Look at it.")},
    ]
    (tmp_path / "out").mkdir()
    config = DoctorConfig("10.0.0.0:6379", str(scans), str(tmp_path / "out"))
    diagnosis = diagnose(config)
    problems = {(line.check, *line.machines) for line in diagnosis.lines if line.level == "problem"}
    assert problems >= {
        ("versions", "10.0.0.1"),
        ("clock", "10.0.0.1"),
        ("output", "10.0.0.2"),
        ("cluster", "10.0.0.3"),
    }
    [read] = [line for line in diagnosis.lines if line.check == "input"]
    assert read.machines == ["driver", "10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert list((tmp_path / "out").iterdir()) == []
    json.dumps(asdict(diagnosis))


def test_without_an_address_only_this_machine_is_looked_at() -> None:
    """And the table says that no cluster was asked."""
    diagnosis = diagnose(DoctorConfig())
    assert (diagnosis.address, diagnosis.nodes) == (None, [])
    assert "none was asked" in diagnosis.format().splitlines()[0]


def test_cluster_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at once: nobody listens there. The address may come from the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(ray, "is_initialized", lambda: False)  # whatever ran before this test
        began = time.monotonic()
        diagnosis = diagnose(DoctorConfig())
    assert time.monotonic() - began < 60
    [line] = [line for line in diagnosis.lines if line.check == "cluster"]
    assert line.level == "problem"
    assert line.message.startswith(f"No Ray cluster at {address}: ")
    assert line.remedy


def test_nodes_of_one_machine_are_told_apart() -> None:
    """By their id."""
    nodes = [("10.0.0.1", "aaaaaabbb"), ("10.0.0.2", "ccc"), ("10.0.0.1", "ddddddeee")]
    named = cluster.name_nodes([{"NodeManagerAddress": a, "NodeID": i} for a, i in nodes])
    assert named == ["10.0.0.1 (aaaaaa)", "10.0.0.2", "10.0.0.1 (dddddd)"]


@pytest.mark.parametrize(("num_problems", "code"), [(0, 0), (2, 1)])
def test_problems_are_exit_1(
    num_problems: int,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last line is JSON in any case."""
    found = Diagnosis(None, [], num_problems, 1, [Line("cpus", "ok", ["driver"], "2", "")])
    monkeypatch.setattr(doctor, "diagnose", lambda config: found)
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor"])
    assert caught.value.code == code
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["num_problems"] == num_problems


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "http://head:8265"], "address is 'http://head:8265': give HOST:PORT"),
        (["--address", "local"], "address is 'local': give HOST:PORT"),
        (["--timeout-s", "0"], "timeout_s is 0: give 1 to 3600."),
        (["--input-uri", f"https://user:{SECRET}@host/a.txt"], "There is a password"),
    ],
)
def test_wrong_flag_is_exit_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is looked at, and without the password."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", *options])
    assert caught.value.code == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error
    assert SECRET not in error


def test_secrets_of_the_environment_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Keys and tokens that every check may have used."""
    names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"]
    for name in names:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("mnist_ocr.s3.LIST_RETRY_TIMEOUT_S", 0)
    diagnosis = diagnose(DoctorConfig(None, "s3://scans/2026", "s3://labels/out"))
    bad = {line.check for line in diagnosis.lines if line.level == "problem"}
    assert {"input", "output", "bucket"} <= bad
    assert SECRET not in diagnosis.format() + json.dumps(asdict(diagnosis))


def test_file_of_its_own_is_passed_over_by_label_and_verify() -> None:
    """Both take names with a dot for temporary files."""
    assert new_file_name().startswith(".doctor-")
    assert new_file_name() != new_file_name()
    assert Trial("/out", new_file_name(), is_kept=False).name.isprintable()
