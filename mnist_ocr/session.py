"""The Ray cluster that this process works on."""

import logging

import ray


def connect_ray() -> None:
    """Join the cluster of this process, or of `RAY_ADDRESS`, or start one on this machine."""
    if not ray.is_initialized():
        # workers' own lines stay in Ray's log files: what matters reaches the driver as results
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
