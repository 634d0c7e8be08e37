"""Several machines on this one, each with an address, a name and processes of its own.

Where namespaces are permitted (that takes root and the `ip` command) a host is a network, process,
mount and name namespace, with a cable (veth) to a bridge in a namespace between the hosts. The
machine's own network is not touched. A host's first process waits for the end of its standard
input, which is a pipe from this process: whatever happens to this one, they and all of their
processes end with it, and namespaces end with their processes.

Elsewhere a host is the processes that were started on it, all at 127.0.0.1.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

SUBNET = "10.77.0"


class NotPermittedError(Exception):
    """This machine lets no namespaces be made; says why."""


class Host:
    """A machine; by itself no more than the processes that are started on it."""

    def __init__(self, name: str) -> None:
        self.name, self.address = name, "127.0.0.1"
        self._processes: list[subprocess.Popen[str]] = []

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], **files: Any
    ) -> subprocess.Popen[str]:
        """Start a program; it ends with the host."""
        process = subprocess.Popen(self._enter(command), env=environment, text=True, **files)
        self._processes.append(process)
        return process

    def find_processes(self) -> list[psutil.Process]:
        """Those that were started, and theirs."""
        found = []
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(process.pid)
                found += [root, *root.children(recursive=True)]
        return found

    def cut_off(self) -> None:
        """Nobody hears of it any more."""
        for process in self.find_processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def end(self) -> None:
        """Turn it off, without a word to its processes."""
        for process in self.find_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self._processes:
            started.wait(30)

    def _enter(self, command: Sequence[str]) -> list[str]:
        return list(command)


class Namespace:
    """Namespaces that last until `end`, or until this process ends.

    Raises:
        NotPermittedError: There are none to be had, or a command of `setup` fails in them.
    """

    def __init__(self, setup: str, *arguments: str) -> None:
        unshare = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--kill-child"]
        shell = ["--mount-proc", "sh", "-ec", f"{setup}; echo ready; exec cat", "sh", *arguments]
        try:
            self._process = subprocess.Popen(
                [*unshare, *shell],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        except FileNotFoundError as error:
            raise NotPermittedError(str(error)) from error
        assert self._process.stdout
        answer = self._process.stdout.readline().strip()
        if answer != "ready":
            self.end()
            raise NotPermittedError(answer or "unshare says nothing")
        (first,) = psutil.Process(self._process.pid).children()
        self.pid = first.pid

    def enter(self, *kinds: str) -> list[str]:
        """What to put before a command that is to run there."""
        return ["nsenter", "--target", str(self.pid), *kinds, "--"]

    def ip(self, arguments: str) -> None:
        """Run `ip`, with this machine's process ids."""
        subprocess.run([*self.enter("--net"), "ip", *arguments.split()], check=True)

    def end(self) -> None:
        """Kill whatever runs there."""
        self._process.kill()
        self._process.communicate(timeout=30)


class IsolatedHost(Host):
    """A machine that shares files and processor with the others, and nothing else.

    Args:
        name: Its host name.
        number: The last part of its address, from 1.
        switch: Where its cable ends.
        names: What the hosts take for /etc/hosts.
    """

    def __init__(self, name: str, number: int, switch: Namespace, names: Path) -> None:
        super().__init__(name)
        self.address, self._switch = f"{SUBNET}.{number}", switch
        with names.open("a") as file:
            file.write(f"{self.address} {name}\n")
        self._space = Namespace('hostname "$1"; mount --bind "$2" /etc/hosts', name, str(names))
        switch.ip(f"link add name {name} type veth peer name eth0 netns {self._space.pid}")
        switch.ip(f"link set dev {name} master switch up")
        self._space.ip("link set dev lo up")
        self._space.ip(f"address add {self.address}/24 dev eth0")
        self._space.ip("link set dev eth0 up")

    def cut_off(self) -> None:
        """Pull the cable."""
        self._switch.ip(f"link set dev {self.name} down")

    def end(self) -> None:
        """Turn it off."""
        self._space.end()
        super().end()

    def _enter(self, command: Sequence[str]) -> list[str]:
        return [*self._space.enter("--net", "--pid", "--mount", "--uts"), *command]


class Lab:
    """Hosts that reach each other.

    Args:
        folder: For files that they share.
    """

    def __init__(self, folder: Path) -> None:
        self._hosts: list[Host] = []
        self._names = folder / "hosts"
        self._names.write_text("127.0.0.1 localhost\n")
        self._switch: Namespace | None = None
        try:
            self._switch = Namespace("ip link add name switch type bridge; ip link set switch up")
            self.kind = "hosts are network namespaces"
        except NotPermittedError as error:
            self.kind = f"hosts are groups of processes, since this machine says: {error}"

    @property
    def is_isolated(self) -> bool:
        """Whether hosts are namespaces."""
        return self._switch is not None

    def add_host(self, name: str) -> Host:
        """Turn another one on."""
        if self._switch:
            host: Host = IsolatedHost(name, len(self._hosts) + 1, self._switch, self._names)
        else:
            host = Host(name)
        self._hosts.append(host)
        return host

    def close(self) -> None:
        """Turn all of them off."""
        for host in self._hosts:
            host.end()
        if self._switch:
            self._switch.end()


@contextmanager
def open_lab(folder: Path) -> Iterator[Lab]:
    """A lab, for as long as the block lasts."""
    lab = Lab(folder)
    try:
        yield lab
    finally:
        lab.close()
