"""A cluster, a clock and a disk that can be disturbed."""

import importlib.util
import os
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil


class Clock:
    """The wall clock of all processes of a cluster, if libfaketime is installed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.library = find_faketime()

    @property
    def environment(self) -> dict[str, str]:
        """Of the processes."""
        if not self.library:
            return {}
        self.set(0)
        return {
            "LD_PRELOAD": self.library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # each look at the file may fail, and ends the process
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_s: int) -> None:
        """Seconds from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}s")
        new.replace(self._file)  # whole: processes read it all the time


def find_faketime() -> str:
    """The library of PyPI's libfaketime, which Ray bears (Debian's it does not); "" without it."""
    spec = importlib.util.find_spec("libfaketime")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return next((str(path) for path in folder.rglob("libfaketime.so.1")), "") if folder else ""


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of 16 MB, and whether this machine lets one be made (root may)."""
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    is_mounted = not subprocess.run(command, stderr=subprocess.DEVNULL).returncode
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


class Nodes:
    """A Ray cluster of a head without cores and two nodes with one each."""

    def __init__(self) -> None:
        self._cluster: Any = None
        self._nodes: list[Any] = []
        self.environment: dict[str, str] = {}
        """Variables that its processes have beside those of this one."""

    def start(self, environment: dict[str, str]) -> None:
        """A cluster with these variables; one without any serves many schedules.

        A clock that has jumped leaves Ray with timers that end in hours, of health checks, too.
        """
        from ray.cluster_utils import Cluster

        if self._cluster and not (environment or self.environment):
            return
        self.shutdown()
        self.environment = environment
        head = {"num_cpus": 0, "include_dashboard": False}
        with mock.patch.dict(os.environ, environment):
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.restore()

    @property
    def address(self) -> str:
        """Where drivers connect to."""
        address: str = self._cluster.address
        return address

    def restore(self) -> None:
        """Both nodes are there."""
        with mock.patch.dict(os.environ, self.environment):
            while len(self._nodes) < 2:
                self._nodes.append(self._cluster.add_node(num_cpus=1, num_gpus=1))

    def lose(self) -> bool:
        """One is gone without a word, if there is one."""
        if has_node := bool(self._nodes):
            self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)
        return has_node

    def shutdown(self) -> None:
        """End all processes."""
        if self._cluster:
            self._cluster.shutdown()
        self._cluster, self._nodes = None, []

    def kill_worker(self, numbers: random.Random) -> bool:
        """SIGKILL one that is at work, if there is one."""
        workers = [
            process
            for process in psutil.process_iter(["name", "environ"])
            if re.match(r"ray::(?!IDLE)", process.info["name"] or "")
            and (process.info["environ"] or {}).get("HOME") == os.environ["HOME"]
        ]
        if workers:
            with suppress(psutil.NoSuchProcess):
                numbers.choice(workers).kill()
        return bool(workers)
