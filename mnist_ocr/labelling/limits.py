"""How long a labelling job takes on some machines, and why not less: for `plan`.

A job has several limits at once: cores, GPUs, the listing, answers that are waited for, what the
store gives, the network, the driver. They overlap, so that the slowest of them is what the job
takes. What a formula leaves out, and how well it does: docs/scale.md.
"""

from dataclasses import dataclass, replace
from typing import Final

from mnist_ocr.labelling.instances import (
    GETS_PER_PREFIX_AND_S,
    SPOT_SHARE,
    USD_PER_GET,
    USD_PER_PUT_OR_LIST,
)
from mnist_ocr.pacing import MAX_IN_FLIGHT

S3_GET_CORE_S: Final = 0.17e-3
"""Seconds of a core for a GET of a small object by obstore, measured on loopback without TLS."""

S3_LATENCY_S: Final = 0.1
"""Between a request and S3's answer: "roughly 100-200 milliseconds" for small objects (S3 user
guide, "Performance design patterns")."""

PUTS_PER_SHARD = 2
"""Its part of the manifest, and its Parquet file."""

DRIVER_S_PER_SHARD: Final = 10e-3
"""Seconds of a core that a shard takes the driver, one process on the head: Ray Data's scheduling
and the receipt. 7 to 10 ms with 2 to 24 actors, on a busy AMD EPYC (benchmarks/scale_head.py)."""

CORES, LISTING, WAITING = "cores", "listing", "waiting for data"
REQUESTS, NETWORK = "GETs per prefix", "network"
GPUS, DRIVER = "GPUs", "driver"


@dataclass(frozen=True)
class Workload:
    """What there is to do, in all."""

    num_images: float
    num_gets: float
    num_lists: float
    num_puts: float
    num_prefixes: int
    transfer_bytes: float
    """Again what has to be read to be listed, and what is streamed once more for each shard."""
    list_core_s: float
    """Seconds of a core for listing and writing the manifest, which one process does."""
    fetch_core_s: float
    """Seconds of a core in all workers; the next ones likewise."""
    fetch_wait_s: float
    """Seconds of a process for fetching, requests in flight: the core's and the waiting."""
    decode_core_s: float
    predict_core_s: float
    write_core_s: float
    is_on_s3: bool

    @property
    def num_shards(self) -> float:
        """Parquet files."""
        return self.num_puts / PUTS_PER_SHARD

    @property
    def read_core_s(self) -> float:
        """Seconds of a core for fetching and decoding."""
        return self.fetch_core_s + self.decode_core_s

    def worker_s(self, *, has_gpus: bool) -> float:
        """Seconds of a process for all of it: it decodes while it waits, and does nothing else."""
        predict_s = 0.0 if has_gpus else self.predict_core_s
        return max(self.fetch_wait_s, self.read_core_s) + predict_s + self.write_core_s


@dataclass(frozen=True)
class Machines:
    """What a job runs on."""

    name: str
    num_cpus: int
    num_gpus: float
    gbit_per_s: float | None
    """Of all of them; None where it is not known."""
    usd_per_hour: float | None
    """Of all of them; None where it is not known."""
    gpu_images_per_s: float | None = None
    """Of all GPUs; None where they are taken to keep up with what the cores read."""


@dataclass(frozen=True)
class Estimate:
    """A job on some machines."""

    machines: Machines
    hours: dict[str, float]
    """By limit."""
    limit: str
    """What the job waits for: the limit of most hours."""
    num_hours: float
    """Expected: those; Ray's start comes on top."""
    instance_usd: float | None
    """On demand; None where the price is not known."""
    spot_usd: float | None
    """The same on spot instances, roughly."""
    request_usd: float | None
    """S3's fee; None where nothing is on S3."""
    advice: str
    """What would move the limit."""


def move_to_s3(work: Workload) -> Workload:
    """The same objects in a bucket: fetching as others have measured it."""
    if work.is_on_s3:
        return work
    fetch_core_s = max(work.num_gets * S3_GET_CORE_S, work.fetch_core_s)
    fetch_wait_s = work.num_gets * S3_LATENCY_S / MAX_IN_FLIGHT
    return replace(work, fetch_core_s=fetch_core_s, fetch_wait_s=fetch_wait_s, is_on_s3=True)


def estimate(work: Workload, machines: Machines) -> Estimate:
    """Hours by limit, and the fee.

    On GPUs predicting costs the cores nothing.
    """
    cpus, has_gpus = machines.num_cpus, machines.num_gpus > 0
    busy = replace(work, fetch_wait_s=0.0).worker_s(has_gpus=has_gpus)
    seconds = {CORES: (work.list_core_s + busy) / cpus, LISTING: work.list_core_s}
    if work.fetch_wait_s > work.read_core_s:
        seconds[WAITING] = work.worker_s(has_gpus=has_gpus) / cpus
    if has_gpus and machines.gpu_images_per_s:
        seconds[GPUS] = work.num_images / machines.gpu_images_per_s
    seconds[DRIVER] = work.num_shards * DRIVER_S_PER_SHARD
    fee = None
    if work.is_on_s3:
        seconds[REQUESTS] = work.num_gets / (GETS_PER_PREFIX_AND_S * work.num_prefixes)
        dear = work.num_lists + work.num_puts
        fee = work.num_gets * USD_PER_GET + dear * USD_PER_PUT_OR_LIST
        if machines.gbit_per_s:
            seconds[NETWORK] = work.transfer_bytes * 8e-9 / machines.gbit_per_s
    hours = {name: each / 3600 for name, each in seconds.items()}
    limit = max(hours, key=lambda name: hours[name])
    price = machines.usd_per_hour
    instance_usd = None if price is None else price * hours[limit]
    return Estimate(
        machines=machines,
        hours=hours,
        limit=limit,
        num_hours=hours[limit],
        instance_usd=instance_usd,
        spot_usd=None if instance_usd is None else instance_usd * SPOT_SHARE,
        request_usd=fee,
        advice=advise(limit, work, has_gpus=has_gpus),
    )


def advise(limit: str, work: Workload, *, has_gpus: bool) -> str:
    """What limits the job, and what would move that."""
    pack = "pack the objects into archives (mnist-ocr pack)"
    is_single = work.num_gets > 0.1 * work.num_images
    if limit == REQUESTS:
        prefixes = f"{work.num_prefixes:,} prefix" + "es" * (work.num_prefixes > 1)
        return (
            f"S3's {GETS_PER_PREFIX_AND_S:,} GETs a second for each of {prefixes} would limit it, "
            f"which more machines do not move: {pack}, or spread them over more prefixes."
        )
    if limit == WAITING:
        remedy = f"{pack}, or add cores" if is_single else "add cores, or come nearer to the store"
        return f"Waiting for data would limit it: {remedy}."
    if limit == LISTING:
        return (
            "The listing would limit it: one process lists a job, and more machines do not speed "
            "it up. Split the input into several jobs, which run side by side."
        )
    if limit == DRIVER:
        return (
            "The job's driver would limit it, one process that hands out the shards: pass larger "
            "ones (--shard-size), or split the input into several jobs."
        )
    if limit == GPUS:
        return "The GPUs would limit it: add GPUs, or cores without any (--num-gpus-per-actor 0)."
    if limit == NETWORK:
        return "The network would limit it: take instances with more bandwidth, or more of them."
    stages = {"fetching": work.fetch_core_s, "decoding": work.decode_core_s}
    stages |= {"writing": work.write_core_s, "listing": work.list_core_s}
    if not has_gpus:
        stages["predicting"] = work.predict_core_s
    stage = max(stages, key=lambda name: stages[name])
    share = stages[stage] / sum(stages.values())
    remedy = {
        "predicting": "add GPUs or cores, or pass a smaller model (mnist-ocr recipes: tiny)",
        "fetching": f"{pack}, or add cores" if is_single else "add cores",
    }.get(stage, "add cores")
    return f"The cores would limit it, {share:.0%} of their time {stage}: {remedy}."
