"""One writer at a time."""

import itertools
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
from mnist_ocr.labelling.claim import Claim, find_start
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import Store

HERE = replace(Claim.describe_process(), since="9:00")
ELSEWHERE = replace(HERE, host="elsewhere", machine="another")


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return LocalStore(str(tmp_path / "labels"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds of a lease, a hundred times shorter."""
    monkeypatch.setattr(lease, "POLL_S", 0.01)
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(lease, "GIVE_UP_S", 0.4)
    monkeypatch.setattr(lease, "EXPIRY_S", 0.6)


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
        while find_start(process.pid):
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
        with pytest.raises(UsageError, match="Could not say for long"):
            act_for_long(act)


def test_claims_that_cannot_be_deleted_hold_up_nobody(
    output: Store, zombie: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role may write and not delete: neither a crash nor a clean end blocks the next command."""
    monkeypatch.setattr(LocalStore, "delete", lambda *_: None)
    write_claim(output, replace(HERE, pid=zombie, count=7))
    for _ in range(3):
        with Lease(output) as held:
            held.check()
    assert len(list_claims(output)) == 4


def test_claim_whose_answers_are_cut_does_not_seem_to_count(
    output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cut is another content; the claim is read again until it is whole."""
    write_claim(output, replace(ELSEWHERE, count=1))
    read, lengths = LocalStore.read, itertools.count(1)

    def cut_every_other(store: LocalStore, name: str) -> bytes:
        length = next(lengths)
        return read(store, name)[: length if length % 2 else None]

    monkeypatch.setattr(LocalStore, "read", cut_every_other)
    with Lease(output) as held:
        held.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": 2}', b"[" * 99_999])
def test_claim_that_cannot_be_read_counts_by_changing(output: Store, content: bytes) -> None:
    """It may be of another version: it is respected until it has stood still."""
    name = f"{lease.FOLDER}{'0' * 32}.json"
    output.write(name, content)
    began = time.monotonic()
    with Lease(output) as held:
        assert time.monotonic() - began >= lease.EXPIRY_S
        output.write(f"{lease.FOLDER}{'1' * 32}.json", content)
        with pytest.raises(UsageError, match="taken over by process 0 on an unknown host"):
            act_for_long(held.guard(print))


def test_claim_is_taken_back_when_entering_fails(
    output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook the process lives on, and would be waited for."""
    write_claim(output, ELSEWHERE)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    for entering in ("list", "sleep"):
        with monkeypatch.context() as patch:
            if entering == "list":
                patch.setattr(LocalStore, "list", lambda *_: interrupt(0))
            else:
                patch.setattr(lease, "sleep", interrupt)
            with pytest.raises(KeyboardInterrupt), Lease(output):
                pass
        assert list_claims(output) == [f"{lease.FOLDER}{'0' * 32}.json"]


def test_count_that_came_through_too_late_is_a_loss(
    output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have taken the holder for dead meanwhile; its claim goes with it."""
    write = LocalStore.write

    with Lease(output) as held:

        def write_slowly(store: LocalStore, name: str, data: bytes) -> None:
            time.sleep(2 * lease.GIVE_UP_S)
            write(store, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "write", write_slowly)
            with pytest.raises(UsageError, match="Could not say for long"):
                act_for_long(held.guard(lambda _: None))
    assert not list_claims(output)


def test_holder_that_wakes_up_asks_before_it_writes(output: Store) -> None:
    """What cannot be taken back is not written on a guess."""
    with Lease(output) as held:
        held.check()
        (name,) = list_claims(output)
        output.delete(name)
        write_claim(output, replace(ELSEWHERE, count=1))
        with pytest.raises(UsageError, match=r"was taken over by process .* on elsewhere"):
            held.check()


def test_outlived_claim_that_comes_late_is_no_rival(output: Store) -> None:
    """The last count of a process that is dead may arrive when its successor is at work."""
    name = write_claim(output, replace(ELSEWHERE, count=7))
    with Lease(output) as held:
        write_claim(output, replace(ELSEWHERE, count=8), name=name[7:39])
        held.check()
