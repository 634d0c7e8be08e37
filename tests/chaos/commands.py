"""The `mnist-ocr` command in a process of its own, forked from one that has imported it.

Importing takes 2 s of a core for `label`, and 6 s for `train`.
"""

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

LEASE = {"HEARTBEAT_S": 1.0, "GIVE_UP_S": 8.0, "EXPIRY_S": 12.0}
"""Shorter than it is, so that what lasts longer than a lease lasts not long."""

PRELOADED = ["mnist_ocr.cli", "mnist_ocr.labelling.label", "mnist_ocr.training.trainer", "ray.data"]


def start_command(
    arguments: list[str],
    log: Path,
    environment: dict[str, str] | None = None,
    *,
    is_elsewhere: bool = False,
    is_forked: bool = True,
) -> Any:
    """A process that runs the command.

    Args:
        arguments: Of the command.
        log: File for what it says.
        environment: More variables.
        is_elsewhere: Whether it takes itself for one of another machine, from which other
            commands' processes cannot be seen.
        is_forked: False if this process's libraries are not those that it shall have.
    """
    context: Any = multiprocessing.get_context("forkserver" if is_forked else "spawn")
    if is_forked:
        context.set_forkserver_preload(PRELOADED)
    variables = os.environ | (environment or {})
    process = context.Process(target=_run, args=(arguments, variables, str(log), is_elsewhere))
    process.start()
    return process


def _run(arguments: list[str], environment: dict[str, str], log: str, is_elsewhere: bool) -> None:
    from ray._raylet import Config

    from mnist_ocr import cli
    from mnist_ocr.labelling import claim, lease

    os.environ.clear()  # of whichever test came first
    os.environ.update(environment)
    Config.initialize("")  # from which Ray has read its own when it was imported
    if is_elsewhere:
        machine = f"{os.getpid()}"
        claim.identify_machine = lambda: machine
        vars(lease).update(LEASE)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.exit(cli.main(arguments))
