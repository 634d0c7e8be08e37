"""`cluster/aws.yaml` and `cluster/README.md`, as they are in the repository."""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from aws_account import ROOT

README = (ROOT / "cluster/README.md").read_text(encoding="utf-8")
FILE: dict[str, Any] = yaml.safe_load((ROOT / "cluster/aws.yaml").read_text(encoding="utf-8"))
COMMANDS = [command for key in FILE if key.endswith("_commands") for command in FILE[key]]
BLOCKS = re.findall(r"(?s)```bash\n(.*?)```", README)


def test_what_is_copied_exists() -> None:
    """Every file mount is a path of the repository under ~/mnist-ocr, or the user's token."""
    mounts = dict(FILE["file_mounts"])
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert {"jobs", "mnist_ocr", "pyproject.toml", "constraints.txt"} <= set(mounts.values())
    for remote, local in mounts.items():
        assert remote == f"~/mnist-ocr/{local}"
        assert (ROOT / local).exists(), local


def test_the_head_starts_beside_jobs_and_serves_loopback_only() -> None:
    """The bare `ray job submit` finds jobs/, and the dashboard needs the tunnel."""
    start = FILE["head_start_ray_commands"][-1]
    assert "cd ~/mnist-ocr && ray start --head" in start
    assert "--dashboard-host=127.0.0.1" in start


def test_workers_watch_for_interruptions() -> None:
    """The watcher outlives the launcher's connection, and does not hold it open."""
    *_, stop, start = FILE["worker_start_ray_commands"]
    assert re.fullmatch(
        r"nohup python ~/mnist-ocr/cluster/spot_watcher.py < \S+ > \S+ 2>&1 &", start
    )
    pattern = shlex.split(stop)[2]
    assert re.search(pattern, start)
    assert not re.search(pattern, stop)  # else it would end its own shell


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_nodes_are_clean(command: str) -> None:
    """ShellCheck finds nothing in what `ray up` runs on a node."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        # not followed: ~/venv/bin/activate; not set: what Ray sets; PATH: meant for ~/.bashrc
        [shellcheck, "--shell=bash", "--exclude=SC2016", "-"],
        input=f"export RAY_HEAD_IP\n{command}\n",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == ""


def test_nodes_wait_for_apt(tmp_path: Path) -> None:
    """Refused by a lock, by either command, the set-up tries again, and not for ever."""
    install = next(command for command in FILE["setup_commands"] if "apt-get" in command)
    log = tmp_path / "log"
    for name, script in {
        "sudo": f'echo "$3" >> {log}; eval "$REFUSED"',
        "sleep": f"echo sleep >> {log}",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    tried = {}
    for refused in (f"(( $(wc -l < {log}) > 5 ))", "false"):
        log.write_text("", encoding="utf-8")
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REFUSED": refused}
        subprocess.run(["bash", "-c", install], env=environment, check=True)
        tried[refused] = log.read_text(encoding="utf-8").split()
    found, never = tried.values()
    assert found == ["update", "sleep"] * 3 + ["update", "install"]
    assert never == ["update", "sleep"] * 60


def test_every_command_on_a_node_sees_the_token_mode(tmp_path: Path) -> None:
    """The set-up line, run twice, writes ~/.bashrc once: token mode, region and PATH."""
    bashrc = tmp_path / ".bashrc"
    bashrc.touch()
    line = FILE["setup_commands"][-1].replace("${AWS_DEFAULT_REGION}", "eu-west-1")
    show = "echo $RAY_AUTH_MODE $AWS_DEFAULT_REGION $PATH"
    shown = subprocess.run(
        ["bash", "-ec", f"{line}\n{line}\n. ~/.bashrc\n{show}"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert shown.startswith(f"token eu-west-1 {tmp_path}/venv/bin:{os.environ['PATH']}")
    assert len(bashrc.read_text(encoding="utf-8").splitlines()) == 1


def test_readme_needs_fewer_than_15_commands() -> None:
    """From nothing to labels and back, each with a line that says what it is for."""
    lines = BLOCKS[0].replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert 10 < len(commands) < 15
    for before, line in pairwise(lines):
        if line and not line.startswith("#"):
            assert before.startswith("# "), line


def test_readme_commands_parse() -> None:
    """Each block of commands is valid bash, and the files that it names exist."""
    for block in BLOCKS:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    named = set(re.findall(r"\b(?:cluster|jobs)/[\w.-]+\.\w+", "".join(BLOCKS)))
    assert {"cluster/settings.sh", "cluster/setup.sh", "cluster/teardown.sh"} <= named
    for path in named - {"cluster/rendered.yaml"}:
        assert (ROOT / path).exists(), path
