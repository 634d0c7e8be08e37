"""How many workers a cluster has room for."""

from collections.abc import Mapping

from mnist_ocr.errors import UsageError

CORES_PER_GPU_ACTOR, MAX_ACTORS_PER_GPU = 16, 4
"""An actor's own Python takes 1.2 us an image, a core that reads 25 us or more: with 32 cores to a
GPU, two actors keep it busy while one of them works on the CPU."""


def plan_workers(
    num_actors: int | None, share: float | None, cluster: Mapping[str, float]
) -> tuple[int, float]:
    """How many actors work, and each one's share of a GPU.

    Args:
        num_actors: At most; None for as many as there is room for.
        share: None for a whole GPU if the cluster has any, or less if many cores feed it.
        cluster: Ray's total resources: `CPU`, `GPU`, ...

    Raises:
        UsageError: the cluster has not what is asked for; Ray would wait for ever.
    """
    num_cpus, num_gpus = int(cluster.get("CPU", 0)), cluster.get("GPU", 0.0)
    if share is None:
        per_gpu = num_cpus // max(num_gpus, 1) // CORES_PER_GPU_ACTOR
        share = 1 / min(max(per_gpu, 1), MAX_ACTORS_PER_GPU) if num_gpus else 0.0
    if share > num_gpus:
        raise UsageError(
            f"num_gpus_per_actor is {share:g} and the Ray cluster has {num_gpus:g} GPUs. "
            "Start nodes with GPUs first, or pass 0 to label on CPUs."
        )
    room = int(num_gpus / share) if share else num_cpus
    if not room:
        raise UsageError("The Ray cluster has no CPUs. Start worker nodes first.")
    return min(num_actors or room, room), share
