"""cluster/Dockerfile: linted, read, and its install steps repeated without network or Docker."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

WORKDIR = "/opt/mnist-ocr"


class Step(NamedTuple):
    """One instruction of the Dockerfile."""

    name: str
    argument: str


@pytest.fixture(scope="module")
def steps(repository: Path) -> list[Step]:
    """The instructions, with continued lines joined and comments gone."""
    text = (repository / "cluster/Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = lines.replace("\\\n", "").splitlines()
    return [Step(*line.split(maxsplit=1)) for line in joined if line.strip()]


def arguments(steps: list[Step], name: str) -> list[str]:
    """Of every instruction of a name."""
    return [step.argument for step in steps if step.name == name]


def is_sent(path: str, ignored: str) -> bool:
    """Whether Docker would send a file, given a .dockerignore: the last line that matches decides.

    A line matches a path, or a folder that it is in; `*` stops at a slash and `**` does not.
    """
    parts = path.split("/")
    prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    sent = True
    for line in ignored.splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.lstrip("!"))
            pattern = pattern.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, prefix) for prefix in prefixes):
                sent = line.startswith("!")
    return sent


def test_dockerfile_has_no_lint(repository: Path) -> None:
    """Hadolint, which also asks shellcheck about the commands."""
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [hadolint, "--no-color", repository / "cluster/Dockerfile"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_image_is_what_kubernetes_wants(steps: list[Step]) -> None:
    """A pinned base, a user that is not root, by number, no cache of pip's, no secret."""
    assert arguments(steps, "ARG")[0] == "BASE=python:3.12-slim-bookworm"
    assert arguments(steps, "FROM") == ["${BASE}"]
    assert arguments(steps, "USER") == ["1000:1000"]
    last = max(i for i, step in enumerate(steps) if step.name == "RUN")
    assert last < next(i for i, step in enumerate(steps) if step.name == "USER")
    assert arguments(steps, "WORKDIR") == [WORKDIR]
    assert "useradd --uid 1000 " in arguments(steps, "RUN")[0]
    assert " wget " in arguments(steps, "RUN")[0]  # the probes of KubeRay's older operators
    assert "ENTRYPOINT" not in {step.name for step in steps}  # KubeRay and `verify` bring their own
    assert "PIP_NO_CACHE_DIR=1" in " ".join(arguments(steps, "ENV"))
    names = " ".join(arguments(steps, "ARG") + arguments(steps, "ENV"))
    assert not re.search("(?i)token|secret|password|key", names)


def test_only_what_is_copied_is_sent(repository: Path, steps: list[Step]) -> None:
    """Of the repository's files those of the COPY steps; of what lies beside them none."""
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=repository, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    copied = {source for each in arguments(steps, "COPY") for source in each.split()[:-1]}
    assert copied == {each.split("/")[0] for each in listed if is_sent(each, ignored)}
    for name in listed:
        assert is_sent(name, ignored) == (name.split("/")[0] in copied), name
    for name in (
        ".env",
        ".git/config",
        ".venv/bin/python",
        "data/MNIST/raw/train-images-idx3-ubyte",
        "jobs/.env",
        "mnist_ocr/__pycache__/cli.cpython-312.pyc",
        "mnist_ocr/pretrained/checkpoint.safetensors",
        "mnist_ocr/pretrained/evaluation/mnist-test/curves.png",
    ):
        assert not is_sent(name, ignored), name


@pytest.fixture(scope="module")
def image(
    repository: Path, steps: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The working folder and the Python environment that the steps come to.

    The system's own steps (apt, useradd) are left out. The environment sees the packages that the
    tests run with, and pip has no index: it fails where these are not what the constraints say.
    That every wheel can be had for the image's own Python, from either index, is not tested.
    """
    root = tmp_path_factory.mktemp("image")
    workdir, venv = root / "workdir", root / "venv"
    workdir.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python3*/site-packages")
    own = Path(pytest.__file__).parents[1]
    (packages / "test-environment.pth").write_text(f"{own}\n", encoding="utf-8")
    pip = venv / "bin/pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {venv}/bin/python "$@"\n')
    pip.chmod(0o755)

    environment = {"HOME": str(root), "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # sic: 0 switches it off
    for step in steps:
        argument = step.argument.replace(WORKDIR, str(workdir))
        if step.name == "COPY":
            *sources, target = argument.split()
            for source in sources:
                subprocess.run(["cp", "-r", repository / source, workdir / target], check=True)
        elif step.name == "ENV":
            environment |= dict(each.split("=", 1) for each in argument.split())
        elif step.name == "ARG":
            name, _, value = argument.partition("=")
            environment[name] = value
        elif step.name == "RUN" and "pip install" in argument:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", argument],
                cwd=workdir,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert done.returncode == 0, done.stdout
    return {"workdir": workdir, "venv": venv}


@pytest.mark.parametrize("command", ["mnist-ocr --help", "python jobs/train.py --help"])
def test_commands_run_in_the_image(image: dict[str, Path], command: str, tmp_path: Path) -> None:
    """From its working folder, by bare names, with the package that was installed into it."""
    environment = {"HOME": str(tmp_path), "PATH": f"{image['venv']}/bin:/usr/bin:/bin"}
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=image["workdir"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    assert "usage: mnist-ocr" in ran.stdout


def test_what_is_installed(image: dict[str, Path]) -> None:
    """The package with its model, beside jobs/; no second copy in the working folder."""
    files = {path.name for path in image["workdir"].iterdir()}
    assert files == {"LICENSE", "README.md", "constraints.txt", "jobs", "pyproject.toml"}
    (package,) = image["venv"].glob("lib/python3*/site-packages/mnist_ocr")
    assert {"model.json", "model.onnx"} <= {path.name for path in package.glob("pretrained/*")}
    assert (package / "py.typed").exists()
