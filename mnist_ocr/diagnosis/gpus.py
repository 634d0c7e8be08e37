"""GPUs, as the driver, Ray and torch count them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from mnist_ocr.diagnosis.findings import Finding
from mnist_ocr.diagnosis.raylet import is_worker, read_visible_gpus

CHECK = "gpus"

TIMEOUT_S = 30
"""Seconds for `nvidia-smi`, which hangs where a driver does, and for torch's import."""

QUERY = ("--query-gpu=name,driver_version", "--format=csv,noheader")

ASK_TORCH = "import torch; print(torch.__version__, torch.cuda.device_count())"


@dataclass(frozen=True)
class Gpus:
    """What a machine has."""

    names: tuple[str, ...] = ()
    """As `nvidia-smi` lists them."""
    driver: str = ""
    trouble: str = ""
    """What `nvidia-smi` or torch complained of."""
    torch: str = ""
    """Its version with the build, if it was asked."""
    num_in_torch: int | None = None
    """None if it was not asked: the driver knows no GPU."""


def look_at_gpus() -> Gpus:
    """Facts about this machine; imports torch, in a process of its own, if there are GPUs."""
    names: list[str] = []
    driver = trouble = ""
    if smi := shutil.which("nvidia-smi"):
        try:
            rows = [line.split(", ") for line in _run([smi, *QUERY], dict(os.environ)).splitlines()]
            names, driver = [row[0] for row in rows], rows[0][1] if rows else ""
        except (OSError, subprocess.SubprocessError, IndexError) as error:
            trouble = f"nvidia-smi fails: {_describe(error)}"
    if not names:
        return Gpus(trouble=trouble)
    environment = dict(os.environ)
    if is_worker():  # Ray has hidden the GPUs from a task that asks for none
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        if (visible := read_visible_gpus()) is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
    try:
        torch, _, number = _run([sys.executable, "-c", ASK_TORCH], environment).rpartition(" ")
        return Gpus(tuple(names), driver, trouble, torch, int(number))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Gpus(tuple(names), driver, f"torch fails: {_describe(error)}", "", 0)


def _run(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S, env=environment
    ).stdout.strip()


def _describe(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = str(error.stderr or error.stdout).strip() or str(error)
        return said.splitlines()[-1]
    return str(error)


def judge_gpus(found: Gpus, num_in_ray: float | None) -> Iterator[Finding]:
    """Findings about a machine; `num_in_ray` is None without Ray."""
    num = len(found.names)
    if found.trouble:
        yield Finding(
            CHECK,
            "problem",
            found.trouble,
            "Reinstall the NVIDIA driver and restart the machine, or use another image.",
        )
    if num_in_ray is not None and num_in_ray > num:
        yield Finding(
            CHECK,
            "problem",
            f"Ray counts {num_in_ray:g}, the driver (nvidia-smi) {num}",
            "Start Ray there without --num-gpus, or install the NVIDIA driver (in a container: "
            "its runtime).",
        )
    if num_in_ray is not None and num_in_ray < num:
        yield Finding(
            CHECK,
            "warning",
            f"Ray counts {num_in_ray:g} of {num}: the others stay idle",
            f"Start Ray there with --num-gpus={num}, and without CUDA_VISIBLE_DEVICES.",
        )
    needed = min(num, num if num_in_ray is None else int(num_in_ray))
    if not found.trouble and found.num_in_torch is not None and found.num_in_torch < needed:
        yield Finding(
            CHECK,
            "problem",
            f"torch {found.torch} sees {found.num_in_torch} of {needed}",
            f"Install a build of torch with CUDA that driver {found.driver} serves.",
        )
    if not found.trouble and not num and not num_in_ray:
        yield Finding(CHECK, "ok", "none")
    elif num and (num_in_ray is None or num_in_ray == num) and found.num_in_torch == num:
        names = ", ".join(dict.fromkeys(found.names))
        yield Finding(
            CHECK, "ok", f"{num} x {names}, driver {found.driver}, torch {found.torch} sees {num}"
        )


def compare_drivers(drivers: dict[str, str]) -> Iterator[Finding]:
    """A finding about all nodes, by the driver of each that has one."""
    if len(versions := sorted(set(drivers.values()))) > 1:
        rarest = min(versions, key=list(drivers.values()).count)
        names = ", ".join(name for name, version in drivers.items() if version == rarest)
        yield Finding(
            CHECK,
            "warning",
            f"drivers differ: {', '.join(versions)}, {rarest} on {names}",
            "Start all nodes from one image.",
        )
