"""What each worker reserves of a Ray cluster."""

from collections.abc import Mapping, Sequence

from mnist_ocr.errors import UsageError

MAX_CPUS_PER_WORKER = 8
"""More threads than this find too little to do in a batch of such small images."""


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
