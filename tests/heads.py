"""A real Ray head in token mode, as on a cluster, and the `ray` command that talks to it."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from services import free_port

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """`ray start --head`, run in the repository's folder, with a home and a token of its own."""

    address: str
    """Of the dashboard, which takes jobs."""
    home: Path
    token: str
    environment: dict[str, str]
    """What somebody has who may use it."""

    @property
    def logs(self) -> Path:
        """The folder that holds every log of its."""
        return (self.home / "ray/session_latest/logs").resolve()

    def run_job_command(
        self, command: str, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`ray job COMMAND`, until it ends; what it says is in `stdout`."""
        return subprocess.run(
            [RAY, "job", command, "--address", self.address, *arguments],
            cwd=cwd or self.home,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def submit(self, *arguments: str, cwd: Path | None = None) -> str:
        """`ray job submit`, until the job has succeeded; what was said."""
        done = self.run_job_command("submit", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def request(self, path: str, token: str | None = None) -> tuple[int, str]:
        """Status and body of what the dashboard answers, with a token or without."""
        request = urllib.request.Request(f"{self.address}{path}")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture(scope="session")
def head(repository: Path) -> Iterator[Head]:
    """One for all tests: it takes ten seconds to start."""
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths have to be short
    token = secrets.token_hex(32)
    (home / ".ray").mkdir(mode=0o700)
    (home / ".ray/auth_token").write_text(token)
    (home / ".ray/auth_token").chmod(0o600)
    port, dashboard_port = free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAY_AUTH_MODE": "token",
    }
    command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    command += [f"--dashboard-port={dashboard_port}", f"--temp-dir={home}/ray"]
    for name in ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export"):
        command.append(f"--{name}-port={free_port()}")
    with (home / "head.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=repository,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, to end all of it
        )
    head = Head(f"http://127.0.0.1:{dashboard_port}", home, token, environment)
    try:
        _wait_until_it_answers(head, process)
        yield head
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # SIGTERM takes Ray half a minute
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_it_answers(head: Head, process: subprocess.Popen[bytes]) -> None:
    log = head.home / "head.log"
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            if head.request("/api/version", head.token)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError(log.read_text())
