"""The Ray cluster that this process works on."""

import logging

import ray


def connect_ray() -> None:
    """Join the cluster of this process, of `RAY_ADDRESS`, or of this machine, or start one.

    Ray itself finds a cluster that `ray start` has started on this machine; `RAY_ADDRESS=local`
    starts one all the same.
    """
    if not ray.is_initialized():
        # workers' own lines stay in Ray's log files: what matters reaches the driver as results
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
