"""One writer: of two commands on one output, the second stops and says who holds it.

    OUTPUT/_lease/<random>.json    a claim: who, since when, and a count that grows while it lives

A command writes a claim and lists all claims. If its own is the only one that lives, it holds the
output; else it takes its claim back, and tries again after a while under another name. So two never
hold: of two that have written, the one that lists last sees both. This asks no more of a store than
that a listing shows what has been written, which S3, Google Cloud Storage, Azure and file systems
promise. S3's conditional PUT would not do on other servers, and could not tell who is still alive.

A claim is dead if its process is gone from this machine, or its count stands still. Nobody's clock
is compared with another's. A process that was taken for dead and wakes up sees its successor before
it counts on, and before it writes what cannot be taken back (`check`).
"""

import json
import logging
import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from threading import Event, Thread
from time import monotonic, sleep
from typing import Self, TypeVar
from uuid import uuid4

from mnist_ocr.crash import crash_point
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.claim import Claim
from mnist_ocr.storage import Store

FOLDER = "_lease/"

HEARTBEAT_S = 5.0
"""Between two counts."""

GIVE_UP_S = 40.0
"""Between two counts: the holder gives up by itself."""

EXPIRY_S = 60.0
"""Without a count: the holder is dead, or has given up."""

POLL_S = 0.5
"""Between two tries, more or less: two commands shall not meet for ever."""

_NAME = re.compile(FOLDER + r"[0-9a-f]{32}\.json")

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Lease:
    """Holds an output for this process while the context lasts.

    Raises:
        UsageError: on entering: another process holds it.
        StorageUnreachableError: on entering: the store does not answer.
    """

    def __init__(self, output: Store) -> None:
        self._output = output
        self._name = ""
        self._claim = Claim.describe_process()
        self._dead: set[str] = set()
        """Claims that this one has outlived."""
        self._is_over = Event()
        self._loss = ""
        self._heart = Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        others: dict[str, _Watched] = {}
        try:
            while not self._try_to_hold(others):
                sleep(POLL_S * random.uniform(0.5, 1.5))
            self._count()
        except BaseException:
            self._output.delete(self._name)
            raise
        self._heart.start()
        crash_point("claimed")
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._heart.join()
        if not self._loss:
            with suppress(OSError, UsageError):
                self._write(replace(self._claim, has_ended=True))
        self._output.delete(self._name)

    def check(self) -> None:
        """Ask the store whether the output is still held, before what cannot be taken back.

        Raises:
            UsageError: it is not.
            StorageUnreachableError: the store does not answer.
        """
        self._loss = self._loss or self._find_loss()
        if self._loss:
            raise UsageError(self._loss)

    def guard(self, act: Callable[[T], None]) -> Callable[[T], None]:
        """The same, if the output is still held as far as this process knows.

        Raises:
            UsageError: when called: it is not.
        """

        def act_if_held(value: T) -> None:
            if self._loss:
                raise UsageError(self._loss)
            act(value)

        return act_if_held

    def _write(self, claim: Claim) -> None:
        self._output.write(self._name, json.dumps(asdict(claim)).encode())

    def _count(self) -> None:
        self._claim = replace(self._claim, count=self._claim.count + 1)
        self._write(self._claim)

    def _try_to_hold(self, watched: dict[str, "_Watched"]) -> bool:
        """Write a claim, and take it back where another one lives, or may."""
        self._name = f"{FOLDER}{uuid4().hex}.json"
        self._write(self._claim)
        others = self._read_others()
        for name, claim in others.items():
            if name not in watched:
                watched[name] = _Watched(claim, monotonic())
            first = watched[name]
            is_alive = claim.is_alive(first.claim)
            if is_alive is None and monotonic() - first.seen_at > EXPIRY_S:
                is_alive = False
            if is_alive and claim.count:
                raise UsageError(
                    f"{self._output.uri} is being written by {claim}. Wait for it, or end it."
                )
            if is_alive is None and not first.is_told:
                first.is_told = True
                logger.info("Waiting whether %s is still at work on the output.", claim)
            if is_alive is False:
                self._dead.add(name)
                self._output.delete(name)
        is_alone = others.keys() <= self._dead
        if not is_alone:
            self._output.delete(self._name)
        return is_alone

    def _read_others(self) -> dict[str, Claim]:
        claims = {}
        for page in self._output.list(FOLDER):
            for info in page:
                if _NAME.fullmatch(info.name) and info.name != self._name:
                    with suppress(ObjectError):  # taken back meanwhile
                        claims[info.name] = self._read(info.name)
        return claims

    def _read(self, name: str) -> Claim:
        try:
            return self._output.read_as(name, Claim.decode)
        except UsageError:  # of the credentials; a ValueError, too
            raise
        except ValueError:
            return Claim.guess(self._output.read(name))

    def _beat(self) -> None:
        counted_at = monotonic()
        while not self._is_over.wait(HEARTBEAT_S) and not self._loss:
            reason = ""
            try:
                loss = self._find_loss()
                if not loss:
                    self._count()
            except Exception as error:
                loss, reason = "", f": {error}"
            if monotonic() - counted_at > GIVE_UP_S:  # also if it has come through now
                loss = loss or f"Could not say for long that {self._output.uri} is in use{reason}"
            if not reason:
                counted_at = monotonic()
            self._loss = self._loss or loss

    def _find_loss(self) -> str:
        others = self._read_others()
        rivals = (others[name] for name in others.keys() - self._dead)
        rival = next((claim for claim in rivals if claim.count and not claim.has_ended), None)
        if rival is None and self._output.find(self._name):
            return ""
        taker = str(rival) if rival else "another process"
        return f"{self._output.uri} was taken over by {taker}, when this one stood still."


@dataclass
class _Watched:
    """How a claim was when it was first seen."""

    claim: Claim
    seen_at: float
    is_told: bool = False
    """Whether a person knows what is waited for."""
