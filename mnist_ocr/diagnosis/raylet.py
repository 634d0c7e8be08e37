"""What the Ray node of a worker was started with: its parent process says so."""

import os
from pathlib import Path

FLAGS = ("plasma_directory", "fallback_directory")
"""Folders of the object store, and of what does not fit into it."""


def is_worker() -> bool:
    """Whether this process is one of Ray's workers."""
    return bool(read_flags())


def read_flags() -> dict[str, str]:
    """The values of `FLAGS` of the raylet that started this process; none outside of workers."""
    words = _read("cmdline")
    pairs = (word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
    return {pair[0]: pair[1] for pair in pairs if pair[0] in FLAGS and len(pair) == 2}


def read_visible_gpus() -> str | None:
    """The raylet's CUDA_VISIBLE_DEVICES: its workers have others."""
    name = "CUDA_VISIBLE_DEVICES="
    return next((w.removeprefix(name) for w in _read("environ") if w.startswith(name)), None)


def _read(file: str) -> list[str]:
    try:
        return Path(f"/proc/{os.getppid()}/{file}").read_text(errors="replace").split("\0")
    except OSError:  # no Linux
        return []
