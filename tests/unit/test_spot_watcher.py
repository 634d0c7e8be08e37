"""`cluster/spot_watcher.py` against a metadata service and a `ray` command of the tests' own."""

import importlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from metadata_service import NOTICE, REBALANCE, MetadataService, give_notice

SCRIPT = Path(__file__).parents[2] / "cluster/spot_watcher.py"
NODE = "ab" * 28
HEAD = "10.0.0.1:6379"


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that does not sleep."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    module = importlib.import_module("spot_watcher")
    monkeypatch.setattr(module, "sleep", lambda _: None)
    return module


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataService]:
    """A metadata service without documents; a proxy would know nothing of this machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # discard, which nobody serves
    with MetadataService(tmp_path / "latest") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def pause_by(monkeypatch: pytest.MonkeyPatch, watcher: ModuleType, *steps: Callable) -> list[float]:
    """Do a step instead of each sleep, and fail at the first without one; returns the sleeps."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        assert len(pauses) < len(steps), "it goes on"
        pauses.append(seconds)
        steps[len(pauses) - 1]()

    monkeypatch.setattr(watcher, "sleep", sleep)
    return pauses


def nothing() -> None:
    """A step."""


def test_no_notice_is_waited_for(
    watcher: ModuleType, service: MetadataService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is none (404) it asks at a steady pace, all the time with one token.

    Then it knows what will be done, and when to the second.
    """
    steps = [nothing, nothing, lambda: give_notice(service.folder, 120, "stop")]
    pauses = pause_by(monkeypatch, watcher, *steps)
    action, when = watcher.wait_for_notice(watcher.MetadataService(service.endpoint))
    assert action == "stop"
    assert when == pytest.approx(time.time() + 120, abs=3)
    assert pauses == [watcher.POLL_S] * 3
    assert [method for method, _ in service.requests].count("PUT") == 1


def test_token_is_renewed_before_it_expires(
    watcher: ModuleType,
    service: MetadataService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After hours there is a second one, and no request was refused."""
    hours = [0.0]
    monkeypatch.setattr(watcher, "monotonic", lambda: 3600 * hours[0] + 1)
    steps = [lambda: hours.__setitem__(0, 4), lambda: give_notice(service.folder, 120)]
    pause_by(monkeypatch, watcher, *steps)
    watcher.wait_for_notice(watcher.MetadataService(service.endpoint))
    assert [method for method, _ in service.requests].count("PUT") == 2
    assert caplog.records == []


def test_refused_token_is_replaced(
    watcher: ModuleType, service: MetadataService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that forgets its tokens (401) costs one question."""
    steps = [service.tokens.clear, lambda: give_notice(service.folder, 120)]
    pause_by(monkeypatch, watcher, *steps)
    assert watcher.wait_for_notice(watcher.MetadataService(service.endpoint))[0] == "terminate"


@pytest.mark.parametrize("what", ["errors", "nobody", "html"])
def test_service_that_fails_is_asked_on(
    what: str,
    watcher: ModuleType,
    service: MetadataService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Less and less often, within bounds; it is said once that it fails, and once that it is back.

    A notice is not missed.
    """
    caplog.set_level(logging.INFO)
    client = watcher.MetadataService(service.endpoint)
    if what == "errors":
        service.failures += [503, 403, 500, 503, 429]
    elif what == "nobody":
        client._endpoint = "http://127.0.0.1:9"
    else:
        (service.folder / NOTICE).parent.mkdir(parents=True)
        (service.folder / NOTICE).write_text("<html>")

    def recover() -> None:
        client._endpoint = service.endpoint
        (service.folder / NOTICE).unlink(missing_ok=True)

    steps = [nothing] * 4 + [recover, lambda: give_notice(service.folder, 120)]
    pauses = pause_by(monkeypatch, watcher, *steps)
    assert watcher.wait_for_notice(client)[0] == "terminate"
    assert pauses == [4, 8, 16, 16, 16, 2]
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert "gives no answer" in told[0]
    assert "answers again" in told[1]


def test_recommendation_to_rebalance_is_only_logged(
    watcher: ModuleType,
    service: MetadataService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, and the watch goes on."""
    caplog.set_level(logging.INFO)
    path = service.folder / REBALANCE
    path.parent.mkdir(parents=True)
    path.write_text('{"noticeTime": "2026-11-22T08:22:00Z"}')
    pause_by(monkeypatch, watcher, nothing, nothing, lambda: give_notice(service.folder, 120))
    watcher.wait_for_notice(watcher.MetadataService(service.endpoint))
    (told,) = [record.message for record in caplog.records]
    assert told.endswith("since 2026-11-22T08:22:00Z")


def add_raylet(processes: Path, pid: int, node_id: str) -> None:
    """As /proc shows it."""
    arguments = ["/venv/ray/core/src/ray/raylet/raylet", "--raylet_socket_name=/tmp/ray/raylet"]
    arguments += [f"--node_id={node_id}", "--python_worker_command=python --node-id=no x.py"]
    arguments += [f"--gcs-address={HEAD}", "--labels={}"]
    (processes / str(pid)).mkdir(parents=True)
    (processes / str(pid) / "cmdline").write_text("\0".join(arguments) + "\0")


def test_ray_nodes_are_found_among_processes(watcher: ModuleType, tmp_path: Path) -> None:
    """By the command lines of raylets; what else runs, or ends meanwhile, does not matter."""
    add_raylet(tmp_path, 12, NODE)
    for name, text in {"13": "python\0raylet\0--node_id=1\0", "14": "", "self": "raylet\0"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cmdline").write_text(text)
    (tmp_path / "15").mkdir()
    (tmp_path / "15/cmdline").symlink_to(tmp_path / "ended")
    assert watcher.find_ray_nodes(tmp_path) == {NODE: HEAD}
    assert watcher.find_ray_nodes(tmp_path / "16") == {}


class Machine:
    """Processes, and a `ray` command that notes what it is told."""

    def __init__(self, folder: Path) -> None:
        self.processes, self.calls = folder / "proc", folder / "calls"
        self.ray = folder / "bin/ray"
        self.processes.mkdir()
        self.ray.parent.mkdir()
        self.answer("exit 0")

    def answer(self, last: str) -> None:
        """What the command does after noting."""
        self.ray.write_text(f'#!/bin/sh\necho "$RAY_AUTH_MODE $*" >> {self.calls}\n{last}\n')
        self.ray.chmod(0o755)

    def list_calls(self) -> list[str]:
        """Its environment and arguments, each time."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(watcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine that the watcher believes to be on."""
    machine, find = Machine(tmp_path), watcher.find_ray_nodes
    monkeypatch.setattr(sys, "executable", str(machine.ray.with_name("python")))
    monkeypatch.setattr(watcher, "find_ray_nodes", lambda: find(machine.processes))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return machine


def test_node_is_drained_once_with_the_deadline(
    watcher: ModuleType,
    machine: Machine,
    service: MetadataService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By `ray drain-node`, which gets the environment, the head, the reason and the seconds."""
    add_raylet(machine.processes, 12, NODE)
    give_notice(service.folder, watcher.MARGIN_S + 101)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.endpoint)
    assert watcher.main() == 0
    (call,) = machine.list_calls()
    assert call in [
        f"token drain-node --address {HEAD} --node-id {NODE} --reason DRAIN_NODE_REASON_PREEMPTION"
        f" --reason-message EC2 spot interruption: terminate --deadline-remaining-seconds {seconds}"
        for seconds in (98, 99, 100)
    ]


@pytest.mark.parametrize(("only", "drained"), [(None, [NODE, "cd" * 28]), (NODE, [NODE])])
def test_all_nodes_of_the_machine_are_drained_or_the_one_named(
    only: str | None, drained: list[str], watcher: ModuleType, machine: Machine
) -> None:
    """Each once."""
    add_raylet(machine.processes, 12, NODE)
    add_raylet(machine.processes, 13, "cd" * 28)
    assert watcher.drain_machine("terminate", time.time() + 100, only)
    assert sorted(call.split()[5] for call in machine.list_calls()) == drained


def test_refused_drain_is_repeated(
    watcher: ModuleType, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it is accepted; the log says why it was not."""
    add_raylet(machine.processes, 12, NODE)
    machine.answer(f'echo "Error: no GCS" >&2; [ $(wc -l < {machine.calls}) -ge 3 ]')
    assert watcher.drain_machine("terminate", time.time() + 100, None)
    assert caplog.text.count("exited with 1: Error: no GCS") == 2


def test_ray_that_starts_late_is_drained(
    watcher: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notice may come before `ray start` has."""
    pause_by(monkeypatch, watcher, nothing, lambda: add_raylet(machine.processes, 12, NODE))
    assert watcher.drain_machine("terminate", time.time() + 100, None)


def test_deadline_ends_the_attempts(
    watcher: ModuleType,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One is made even if the notice comes too late, with no time left."""
    add_raylet(machine.processes, 12, NODE)
    machine.ray.unlink()
    monkeypatch.setenv("PATH", "")
    assert not watcher.drain_machine("terminate", time.time() - 5, None)
    assert "No such file or directory: 'ray'" in caplog.text


def test_program_ends_with_1_where_no_ray_node_is(service: MetadataService) -> None:
    """From the environment's endpoint to the exit code, said in one line each."""
    give_notice(service.folder, 1)
    done = subprocess.run(
        [sys.executable, SCRIPT, "--node-id", NODE],
        env={**os.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": service.endpoint},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    asking, notice, end = done.stderr.splitlines()
    assert asking.endswith(f"Z INFO spot_watcher: asking {service.endpoint} every 2 s")
    assert "EC2 will terminate this instance in" in notice
    assert end.endswith("not drained: no Ray node runs here")
