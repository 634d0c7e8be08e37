"""Random schedules of faults, each drawn from a seed, and what it takes to run them."""

import fnmatch
import json
import math
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any
from unittest import mock

from commands import start_command
from faulty_proxy import FAULTS, FaultyProxy
from machines import Clock, Nodes

MAX_TRIES = 4
"""Runs of the command at most, of which the last is disturbed by nothing but a few faults."""

TIMEOUT_S = 600
"""A run that takes longer hangs. For two minutes Ray tries to reach a node whose end it missed, and
for five a timer that was set before the clock jumped is not looked at."""

RIVALRY = ("second command", "command suspended")

EVENTS = (
    *("worker killed", "driver killed", "node lost", "crash point", "disk full", "clock jump"),
    *RIVALRY,
)

WRONG_CLOCK_S = 20
"""Until a clock that has jumped is put right. Ray's health checks go by it: as long as it is behind
what it was, a node that is lost is not missed (https://github.com/ray-project/ray/pull/48843)."""

SUSPENSION_S = (1.0, 20.0)
"""At least and at most."""

CRASH_STEPS = ("shard-listed", "shard-recorded", "shard-read", "shard-predicted", "part-written")


@dataclass(frozen=True)
class Event:
    """Something that happens to a run."""

    kind: str
    num_parts: int
    """When so many Parquet files are there, of those that were not there at the start."""


@dataclass(frozen=True)
class Schedule:
    """What happens to a job, from its first run to its last."""

    seed: int
    input_name: str
    input_place: str
    output_place: str
    has_gpus: bool
    faults: tuple[str, ...]
    """Of the store."""
    rate: float
    """Share of its answers that are disturbed."""
    runs: tuple[tuple[Event, ...], ...]
    has_update: bool
    """Whether the input changes in the end, and the same happens to `--update`."""

    @classmethod
    def draw(cls, seed: int, events: tuple[str, ...]) -> "Schedule":
        """The schedule of a seed, without the kinds of events that cannot be made here."""
        numbers = random.Random(seed)
        input_place = numbers.choice(["disk", "s3", "s3"])
        output_place = numbers.choice(["disk", "s3", "s3"])
        is_on_s3 = "s3" in {input_place, output_place}
        faults = numbers.sample(FAULTS, numbers.randint(1, 3)) if is_on_s3 else ()
        # an archive that seems to have changed, or to end early, is one row: other rows are right
        has_archives = not {"changed etag", "wrong length"} & set(faults)
        if output_place == "s3":
            events = tuple(kind for kind in events if kind != "disk full")
        runs = []
        for _ in range(numbers.randint(0 if faults else 1, MAX_TRIES - 1)):
            kinds = numbers.choices(EVENTS, k=numbers.randint(1, 2))
            drawn = [Event(kind, numbers.randrange(12)) for kind in kinds]
            runs.append(tuple(event for event in drawn if event.kind in events))
        return cls(
            seed,
            numbers.choice(["scans", "archives"]) if has_archives else "scans",
            input_place,
            output_place,
            numbers.random() < 0.15,
            tuple(faults),
            numbers.uniform(0.02, 0.15),
            tuple(runs),
            numbers.random() < 0.3,
        )

    @property
    def kinds(self) -> frozenset[str]:
        """Of its events."""
        return frozenset(event.kind for events in self.runs for event in events)

    @property
    def may_fail(self) -> frozenset[str]:
        """Statuses of rows that tell of the store's faults."""
        told = {"changed etag": "changed", "wrong length": "unreadable", "503": "throttled"}
        return frozenset(told[fault] for fault in self.faults if fault in told)


@dataclass
class Runner:
    """Runs the command under a schedule."""

    nodes: Nodes
    clock: Clock
    proxy: FaultyProxy
    folder: Path
    done: Counter[str] = field(default_factory=Counter)
    """Events that happened."""

    clock_due: float = math.inf
    """When the clock is to be put right."""

    is_elsewhere: bool = False
    """Whether each command runs on a machine of its own, as far as it can tell."""

    def begin(self, schedule: Schedule) -> None:
        """Have a cluster that what happens in a schedule can happen to."""
        self.nodes.start(self.clock.environment if "clock jump" in schedule.kinds else {})
        self.is_elsewhere = not schedule.kinds.isdisjoint(RIVALRY)

    def run(
        self, arguments: list[str], parts: Path, events: tuple[Event, ...], numbers: random.Random
    ) -> int:
        """One run; its exit code.

        Args:
            arguments: Of the command.
            parts: The folder in which its Parquet files appear.
            events: What happens to it.
            numbers: For their details.
        """
        environment = {}
        if any(event.kind == "crash point" for event in events):
            step = f"{numbers.choice(CRASH_STEPS)}:{numbers.randint(1, 4)}"
            environment["MNIST_OCR_CRASH_AT"] = step
            self.done["crash point armed"] += 1
        self._log.unlink(missing_ok=True)
        before = count_parts(parts)
        waiting = [event for event in events if event.kind != "crash point"]
        process = self._start(arguments, environment)
        rivals = []
        deadline = time.monotonic() + TIMEOUT_S
        while process.is_alive() or any(rival.is_alive() for rival in rivals):
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(f"The command hangs: {self.read_log()}")
            time.sleep(0.02)
            if time.monotonic() > self.clock_due:
                self._put_clock_right()
            num_parts = count_parts(parts) - before
            for event in [event for event in waiting if event.num_parts <= num_parts]:
                if event.kind == "second command":
                    rivals.append(self._start(arguments, {}))
                elif not self._make(event.kind, process, parts, numbers):
                    continue
                waiting.remove(event)
                self.done[event.kind] += 1
        self.nodes.restore()
        self._put_clock_right()
        (parts.parent / "ballast").unlink(missing_ok=True)
        for rival in rivals:
            self.done[f"second command: {rival.exitcode}"] += 1
        return process.exitcode

    def _put_clock_right(self) -> None:
        self.clock.set(0)
        self.clock_due = math.inf

    def _start(self, arguments: list[str], environment: dict[str, str]) -> Any:
        variables = {"AWS_ENDPOINT_URL": self.proxy.endpoint}
        environment = environment | variables | {"RAY_ADDRESS": self.nodes.address}
        config = {"runtime_env": {"env_vars": variables}}
        environment["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(config)
        clock = self.nodes.environment
        with mock.patch.dict(os.environ, clock):
            return start_command(
                arguments,
                self._log,
                environment,
                is_elsewhere=self.is_elsewhere,
                is_forked=not clock,
            )

    @property
    def _log(self) -> Path:
        return self.folder / "command.log"

    def read_log(self) -> str:
        """What the last run said."""
        return self._log.read_text()

    def _make(self, kind: str, process: Any, parts: Path, numbers: random.Random) -> bool:
        """Let something happen; whether it did."""
        if kind == "worker killed":
            return self.nodes.kill_worker(numbers)
        if kind == "driver killed":
            process.kill()
        elif kind == "command suspended" and process.is_alive():
            os.kill(process.pid, signal.SIGSTOP)
            Timer(numbers.uniform(*SUSPENSION_S), wake_up, [process.pid]).start()
        elif kind == "node lost":
            return self.nodes.lose()
        elif kind == "clock jump":
            self.clock.set(numbers.choice([-7200, -60, 60, 7200]))
            self.clock_due = time.monotonic() + WRONG_CLOCK_S
        elif kind == "disk full":
            with suppress(OSError), (parts.parent / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return True


def wake_up(pid: int) -> None:
    """A suspended process, if it lives."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def count_parts(folder: Path) -> int:
    """Parquet files that are there; a folder may go meanwhile, as that of a lease does."""
    names = [name for _, _, names in os.walk(folder) for name in names]
    return len(fnmatch.filter(names, "part-*.parquet"))
