"""The Ray cluster that this process works on."""

import contextlib
import logging
import os
import re
import socket
from pathlib import Path

import ray

from mnist_ocr import crash
from mnist_ocr.log_lines import bind

CONNECT_TIMEOUT_S = 5.0
"""Seconds for a head to take a connection."""


def connect_ray() -> None:
    """Join the cluster of this process, of `RAY_ADDRESS`, or of this machine, or start one.

    Ray itself finds a cluster that `ray start` has started on this machine; `RAY_ADDRESS=local`
    starts one all the same.

    Raises:
        ConnectionError: the cluster to join is gone.
    """
    if not ray.is_initialized():
        _check_head()
        # a cluster's workers have an environment of their own
        variables = {name: os.environ[name] for name in {crash.VARIABLE} & os.environ.keys()}
        token = Path("~/.ray/auth_token").expanduser()
        with contextlib.suppress(OSError):
            token.parent.mkdir(mode=0o700)  # Ray would let everybody in whom the umask lets
        ray.init(
            include_dashboard=False,
            # workers' own lines stay in Ray's log files: what matters reaches the driver as results
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": variables} if variables else None,
        )
        with contextlib.suppress(OSError):
            token.chmod(0o600)
    bind(ray_job_id=ray.get_runtime_context().get_job_id())


def reach_head(address: str) -> None:
    """Knock at a cluster's door: Ray 2.60 does not stop asking where nobody listens.

    Args:
        address: `HOST:PORT`; others, such as `local` or `ray://...`, are left to Ray.

    Raises:
        OSError: nobody listens there.
    """
    if match := re.fullmatch(r"([^/]+):(\d+)", address):
        host, port = match[1].strip("[]"), int(match[2])
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()


def _check_head() -> None:
    source, address = "RAY_ADDRESS", os.environ.get("RAY_ADDRESS") or "auto"
    if address == "auto":
        # `ray start` leaves it behind unless `ray stop` ends the cluster
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        note = Path(folder, "ray/ray_current_cluster")
        if not note.is_file():
            return
        source, address = str(note), note.read_text().strip()
    try:
        reach_head(address)
    except OSError as error:
        raise ConnectionError(
            f"No Ray cluster answers at {address}, which {source} names ({error}). Start it again, "
            f"or remove {source}: without it this command starts a cluster of its own."
        ) from error
