"""The Ray cluster that this process works on."""

import contextlib
import logging
import os
from pathlib import Path

import ray

from mnist_ocr import crash
from mnist_ocr.log_lines import bind


def connect_ray() -> None:
    """Join the cluster of this process, of `RAY_ADDRESS`, or of this machine, or start one.

    Ray itself finds a cluster that `ray start` has started on this machine; `RAY_ADDRESS=local`
    starts one all the same.
    """
    if not ray.is_initialized():
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
