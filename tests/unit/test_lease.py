"""One writer at a time."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import lease
from mnist_ocr.labelling.lease import Claim, Lease
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import Store

HERE = Claim("here", lease._identify_machine(), os.getpid(), lease._find_start(os.getpid()), "9:00")
ELSEWHERE = replace(HERE, host="elsewhere", machine="another")


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return LocalStore(str(tmp_path / "labels"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds of a lease, a hundred times shorter."""
    monkeypatch.setattr(lease, "POLL_S", 0.01)
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(lease, "EXPIRY_S", 0.5)


def write_claim(output: Store, claim: Claim, name: str = "0" * 32) -> str:
    path = f"{lease.FOLDER}{name}.json"
    output.write(path, json.dumps(asdict(claim)).encode())
    return path


def act_for_long(act: Callable[[str], None]) -> None:
    for _ in range(1000):
        act("held")
        time.sleep(0.01)


def list_claims(output: Store) -> list[str]:
    return [info.name for page in output.list(lease.FOLDER) for info in page]


def test_second_is_told_who_holds_the_output(output: Store) -> None:
    """And the first one goes on; when it has ended, another may."""
    with Lease(output):
        with (
            pytest.raises(
                UsageError, match=rf"is being written by process {os.getpid()} on .*since"
            ),
            Lease(output),
        ):
            pass
        assert len(list_claims(output)) == 1
    assert not list_claims(output)
    with Lease(output):
        pass


def test_of_many_that_begin_at_once_one_holds(output: Store) -> None:
    """However they meet."""
    begin = threading.Barrier(8)
    held = []
    is_over = threading.Event()

    def run() -> None:
        begin.wait(10)
        try:
            with Lease(output):
                held.append(1)
                is_over.wait(10)
        except UsageError:
            return

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join(0.5)
    is_over.set()
    for thread in threads:
        thread.join(10)
    assert sum(held) == 1


@pytest.fixture
def zombie() -> Iterator[int]:
    """The number of a process that has ended, and that nobody has waited for."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        while lease._find_start(process.pid):
            time.sleep(0.01)
        yield process.pid


def test_dead_process_is_succeeded_at_once(output: Store, zombie: int) -> None:
    """Also if its number has been given to another one."""
    write_claim(output, replace(HERE, pid=zombie, count=7))
    write_claim(output, replace(HERE, started="long ago", count=7), name="1" * 32)
    with Lease(output):
        assert len(list_claims(output)) == 1


def test_claim_of_another_machine_that_stands_still_expires(output: Store) -> None:
    """Held or not."""
    write_claim(output, replace(ELSEWHERE, count=7))
    write_claim(output, ELSEWHERE, name="1" * 32)
    began = time.monotonic()
    with Lease(output):
        assert time.monotonic() - began >= lease.EXPIRY_S
        assert len(list_claims(output)) == 1


def test_claim_of_another_machine_that_counts_is_respected(output: Store) -> None:
    """Whatever its clock says."""
    is_over = threading.Event()

    def count() -> None:
        claim = replace(ELSEWHERE, count=1)
        while not is_over.wait(0.05):
            claim = replace(claim, count=claim.count + 1)
            write_claim(output, claim)

    write_claim(output, replace(ELSEWHERE, count=1))
    with ExitStack() as stack:
        thread = threading.Thread(target=count)
        stack.callback(thread.join)
        stack.callback(is_over.set)
        thread.start()
        with (
            pytest.raises(UsageError, match=r"process .* on elsewhere, since 9:00"),
            Lease(output),
        ):
            pass


def test_holder_that_was_succeeded_stops(output: Store) -> None:
    """It stood still for so long that another one took its claim for dead."""
    with Lease(output) as held:
        seen = []
        act = held.guard(seen.append)
        act("held")
        (name,) = list_claims(output)
        write_claim(output, replace(ELSEWHERE, count=1))
        output.delete(name)
        with pytest.raises(UsageError, match=r"was taken over by process .* on elsewhere"):
            act_for_long(act)
    assert list_claims(output) == [f"{lease.FOLDER}{'0' * 32}.json"]  # it left the other's alone


def test_store_that_is_away_for_long_ends_the_holder(
    output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may take the output over by then; for a short time it only waits."""
    with Lease(output) as held:
        act = held.guard(print)
        is_away = threading.Event()
        write = LocalStore.write

        def fail_or_write(store: LocalStore, name: str, data: bytes) -> None:
            if is_away.is_set():
                raise ConnectionError("away")
            write(store, name, data)

        monkeypatch.setattr(LocalStore, "write", fail_or_write)
        is_away.set()
        time.sleep(0.1)
        is_away.clear()
        act("still held")
        is_away.set()
        with pytest.raises(UsageError, match="Cannot say any more"):
            act_for_long(act)
