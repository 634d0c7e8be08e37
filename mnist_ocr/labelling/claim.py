"""What a command says of itself while it holds an output, and whether it lives."""

import json
import os
import platform
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from zlib import crc32


@dataclass(frozen=True)
class Claim:
    """What a command says of itself."""

    host: str
    machine: str
    """Within which its process has this number, and can be seen: a boot, a container, a user."""
    pid: int
    started: str
    """What tells it from a later process of that number; "" where that is not known."""
    since: str
    """For people only."""
    count: int = 0
    """Of its heartbeats; 0 while it does not hold yet."""
    has_ended: bool = False
    """It holds no more, and could not be deleted."""

    @classmethod
    def describe_process(cls) -> Self:
        """Of this process."""
        pid, since = os.getpid(), datetime.now(UTC).isoformat(" ", "seconds")
        return cls(platform.node(), identify_machine(), pid, find_start(pid) or "", since)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A claim.

        Raises:
            ValueError: it is cut, or of another version.
        """
        try:
            document = json.loads(data)
            return cls(**{field.name: document[field.name] for field in fields(cls)})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(str(error)) from error

    @classmethod
    def guess(cls, data: bytes) -> Self:
        """One that cannot be decoded counts by changing."""
        return cls("an unknown host", "", 0, "", "an unknown time", 1 + crc32(data))

    def __str__(self) -> str:
        """Who, and since when."""
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_alive(self, first: "Claim") -> bool | None:
        """Whether its process lives; None where only time can tell.

        Args:
            first: The claim as it was when it was first seen.
        """
        if self.has_ended:
            return False
        if self.machine == identify_machine():
            started = find_start(self.pid)
            if started is None or (self.started and started):
                return started == self.started
        return True if self.count != first.count else None


def identify_machine() -> str:
    """What tells whose processes this one can see."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # other users' processes may be hidden
        return f"{boot} {Path('/proc/self/ns/pid').readlink()} {os.getuid()}"
    except OSError:  # no Linux
        return platform.node()


def find_start(pid: int) -> str | None:
    """When a process started, in whatever unit; "" if that is not known, None if it has ended."""
    if Path("/proc/self/stat").exists():
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state in "ZX" else rest[18]  # a zombie is dead, until its parent asks
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
