"""One writer: of two commands on one output, the second stops and says who holds it.

    OUTPUT/_lease/<random>.json    a claim: who, since when, and a count that grows while it lives

A command writes a claim and lists all claims. If its own is the only one, it holds the output;
else it takes its claim back, and tries again after a while. So two never hold: of two that have
written, the one that lists last sees both. This asks no more of a store than that a listing shows
what has been written, which S3, Google Cloud Storage, Azure and file systems promise. S3's
conditional PUT would not do on other servers, and could not tell who is still alive.

A claim whose process is gone from this machine, or whose count stands still, is removed. Nobody's
clock is compared with another's.
"""

import json
import logging
import os
import platform
import random
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Self, TypeVar
from uuid import uuid4

from mnist_ocr.crash import crash_point
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import Store

FOLDER = "_lease/"

HEARTBEAT_S = 5.0
"""Between two counts."""

EXPIRY_S = 30.0
"""Without a count: the holder is dead, or gives up by itself."""

POLL_S = 0.5
"""Between two tries, more or less: two commands shall not meet for ever."""

_NAME = re.compile(FOLDER + r"[0-9a-f]{32}\.json")

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """What a command says of itself."""

    host: str
    machine: str
    """Within which its process has this number: a boot, and in it a container."""
    pid: int
    started: str
    """What tells it from a later process of that number."""
    since: str
    """For people only."""
    count: int = 0
    """Of its heartbeats; 0 while it does not hold yet."""

    def __str__(self) -> str:
        """Who, and since when."""
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether its process can be looked for."""
        return self.machine == _identify_machine()

    @property
    def has_process(self) -> bool:
        """Whether it lives, if it is here."""
        return self.started == _find_start(self.pid)


class Lease:
    """Holds an output for this process while the context lasts.

    Raises:
        UsageError: on entering: another process holds it.
        StorageUnreachableError: on entering: the store does not answer.
    """

    def __init__(self, output: Store) -> None:
        self._output = output
        self._name = f"{FOLDER}{uuid4().hex}.json"
        since = datetime.now(UTC).isoformat(" ", "seconds")
        pid = os.getpid()
        self._claim = Claim(platform.node(), _identify_machine(), pid, _find_start(pid), since)
        self._is_over = Event()
        self._loss = ""
        self._heart = Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        others: dict[str, _Watched] = {}
        self._write()
        while not self._is_alone(others):
            self._output.delete(self._name)
            sleep(POLL_S * random.uniform(0.5, 1.5))
            self._write()
        self._count()
        self._heart.start()
        crash_point("claimed")
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._heart.join()
        if not self._loss:
            self._output.delete(self._name)

    def guard(self, act: Callable[[T], None]) -> Callable[[T], None]:
        """The same, if the output is still held.

        Raises:
            UsageError: when called: it is not.
        """

        def act_if_held(value: T) -> None:
            if self._loss:
                raise UsageError(self._loss)
            act(value)

        return act_if_held

    def _write(self) -> None:
        self._output.write(self._name, json.dumps(asdict(self._claim)).encode())

    def _count(self) -> None:
        self._claim = replace(self._claim, count=self._claim.count + 1)
        self._write()

    def _is_alone(self, watched: dict[str, "_Watched"]) -> bool:
        """Whether no other claim is there; the dead ones are removed."""
        others = self._read_others()
        for name, claim in others.items():
            if name not in watched:
                watched[name] = _Watched(claim.count, monotonic())
                if not claim.is_here:
                    logger.info("Waiting whether %s is still at work on the output.", claim)
            first = watched[name]
            is_alive = claim.has_process if claim.is_here else claim.count != first.count
            if claim.count and is_alive:
                self._output.delete(self._name)
                raise UsageError(
                    f"{self._output.uri} is being written by {claim}. Wait for it, or end it."
                )
            has_expired = monotonic() - first.seen_at > EXPIRY_S
            if not is_alive and (claim.is_here or has_expired):
                self._output.delete(name)
        return not others

    def _read_others(self) -> dict[str, Claim]:
        claims = {}
        for page in self._output.list(FOLDER):
            for info in page:
                if _NAME.fullmatch(info.name) and info.name != self._name:
                    try:
                        claims[info.name] = Claim(**self._output.read_as(info.name, json.loads))
                    except ObjectError:
                        continue  # taken back meanwhile
        return claims

    def _beat(self) -> None:
        counted_at = monotonic()
        while not self._is_over.wait(HEARTBEAT_S) and not self._loss:
            try:
                self._loss = self._find_loss()
                if not self._loss:
                    self._count()
                    counted_at = monotonic()
            except (OSError, ValueError) as error:
                if monotonic() - counted_at > EXPIRY_S:
                    self._loss = f"Cannot say any more that {self._output.uri} is in use: {error}"

    def _find_loss(self) -> str:
        rival = next((claim for claim in self._read_others().values() if claim.count), None)
        if rival is None and self._output.find(self._name):
            return ""
        taker = str(rival) if rival else "another process"
        return f"{self._output.uri} was taken over by {taker}, when this one stood still."


@dataclass(frozen=True)
class _Watched:
    """How a claim was when it was first seen."""

    count: int
    seen_at: float


def _identify_machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return platform.node()


def _find_start(pid: int) -> str:
    """When a process of this machine started, in whatever unit; "" where it has ended."""
    if Path("/proc/self/stat").exists():
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if state in "ZX" else fields[18]  # a zombie is dead, until its parent asks
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
