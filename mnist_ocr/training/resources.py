"""What a Ray cluster has, and what each worker reserves of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from mnist_ocr.errors import UsageError
from mnist_ocr.storage import is_local

MAX_CPUS_PER_WORKER = 8
"""More threads than this find too little to do in a batch of such small images."""


def list_resources(flag: str, uri: str) -> list[dict[str, float]]:
    """What each node of the cluster has: `CPU`, `GPU`, ...

    Args:
        flag: Name of the flag that says where the workers write.
        uri: Its value, resolved.

    Raises:
        UsageError: Workers on several machines would write to folders of their own.
    """
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in nodes if node["Alive"]]
    num_hosts = len({node["NodeManagerHostname"] for node in alive})
    if is_local(uri) and num_hosts > 1:
        raise UsageError(
            f"{flag} is {uri}, a folder of one machine, but the Ray cluster has {num_hosts} "
            "machines. Pass an s3:// URI."
        )
    return [node["Resources"] for node in alive]


def plan_resources(
    low: int, high: int, use_gpu: bool, nodes: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Decide what each worker reserves, so that together they use the cluster's cores.

    Args:
        low: How many workers there must be.
        high: How many there may be.
        use_gpu: Whether each needs a GPU; then one core is enough to feed it.
        nodes: What each node of the cluster has: `CPU`, `GPU`, ...

    Returns:
        Ray resources of one worker.

    Raises:
        UsageError: The cluster cannot hold the workers; Ray would wait for room for ever.
    """
    most_cpus = 1 if use_gpu else MAX_CPUS_PER_WORKER
    for num_workers in range(high, low - 1, -1):
        for num_cpus in range(most_cpus, 0, -1):
            each = {"CPU": float(num_cpus), **({"GPU": 1.0} if use_gpu else {})}
            room = (min(node.get(kind, 0) // each[kind] for kind in each) for node in nodes)
            if sum(room) >= num_workers:
                return each
    kind = "GPU" if use_gpu else "CPU"
    total = sum(node.get(kind, 0) for node in nodes)
    raise UsageError(
        f"{low} worker(s) need a {kind} each, and the Ray cluster has {total:g} in "
        f"{len(nodes)} node(s). Pass a smaller num_workers"
        + (" or leave out use_gpu," if use_gpu else ",")
        + f" or start nodes with {kind}s first."
    )
