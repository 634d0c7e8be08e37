"""What the workers report reaches the driver through a queue, and is logged and tracked here."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_ocr.errors import StorageUnreachableError, UsageError
from mnist_ocr.training.tracking import RunTracker

logger = logging.getLogger(__name__)

SILENCE_S = 60.0
"""How long nothing may be heard from the workers before the driver says so."""


@contextmanager
def follow_progress(tracker: RunTracker, num_epochs: int) -> Iterator[Queue]:
    """Log and track, here on the driver, what worker 0 puts into the queue."""
    # On the driver's own node: the queue may not be lost with one that the workers are on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    progress = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def listen() -> None:
        num_told = 0
        while True:
            try:
                message = progress.get(timeout=SILENCE_S)
            except Empty:  # first: as the queue's actor raises it, it is a RayError, too
                free = ray.available_resources()  # type: ignore[no-untyped-call]
                logger.info(
                    "no epoch ended in the last %d s; %g CPUs and %g GPUs of the cluster are free",
                    *(SILENCE_S, free.get("CPU", 0), free.get("GPU", 0)),
                )
                continue
            except ray.exceptions.RayError:
                return
            if message is None:
                return
            if isinstance(message, str):
                logger.info("%s", message)
                continue
            if len(message) > num_told:  # else workers have started again
                num_told = len(message)
                logger.info("%s", message[-1].format(num_epochs))
            try:
                tracker.update(message)
            except (UsageError, StorageUnreachableError) as error:
                logger.warning("this epoch is not tracked: %s", error)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield progress
    finally:
        with suppress(ray.exceptions.RayError):  # the cluster may be gone
            progress.put(None)
            listener.join()
