"""`plan(config)`: what a labelling job would take, before it is run. Writes nothing."""

import os
from dataclasses import dataclass

from mnist_ocr.digits.model import load_model
from mnist_ocr.labelling.census import Kind
from mnist_ocr.labelling.config import LabelConfig, PlanConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.instances import PRICES_OF, find_instance
from mnist_ocr.labelling.inventory import Inventory, take_inventory
from mnist_ocr.labelling.limits import (
    PUTS_PER_SHARD,
    Estimate,
    Machines,
    Workload,
    estimate,
    move_to_s3,
)
from mnist_ocr.labelling.manifest import check_input
from mnist_ocr.labelling.measuring import Cost, Measurement, count_cpus, measure_kinds
from mnist_ocr.labelling.range_reader import CHUNK_BYTES
from mnist_ocr.labelling.reading import MAX_SPAN_BYTES

WRITE_ROW_CORE_S, READ_ROW_CORE_S = 6e-6, 3e-6
"""Seconds of a core for an image's row of the manifest, measured on an AMD EPYC (Zen 5): to write
it, which the listing does, and to read it, which the workers do."""

THIS_MACHINE = "this machine"
"""What stands in for a cluster if none is named."""


@dataclass(frozen=True)
class Plan:
    """What there is to label, what it takes, and what that rests on."""

    input_uri: str
    num_objects: int
    num_images: int
    size_bytes: int
    relative_error: float | None
    """Of `num_objects`, at 95% confidence: 0 counted, None at least so many."""
    num_list_requests: int
    """That this plan took."""
    num_prefixes: int
    kinds: dict[str, int]
    """Images by the ending of their object's name."""
    formats: dict[str, float]
    """Share of the images by format, or by why there is none; of `num_sampled`."""
    num_sampled: int
    num_gets: int
    cost: Cost
    """Of an image, in seconds, on this machine."""
    is_on_s3: bool
    """If not, the estimate for EC2 is as if it were."""
    estimates: tuple[Estimate, Estimate]
    """On this cluster and on EC2."""
    prices_of: str = PRICES_OF


def plan(config: PlanConfig) -> Plan:
    """Take stock, time a sample, and estimate hours and dollars.

    Starts no Ray; where `RAY_ADDRESS` names a cluster, asks it what it has.

    Raises:
        UsageError: the input or model cannot be used, or there is no such instance type.
        StorageUnreachableError: a store does not answer.
        JobFailedError: a process that timed a sample died.
    """
    instance = find_instance(config.instance_type)
    source = open_source(config.input_uri, config.extensions, anonymous=config.anonymous)
    model = load_model(config.model_uri)
    check_input(source)
    inventory = take_inventory(source, config.max_objects)
    kinds = [kind for kind in inventory.kinds if kind.sample]
    measured = measure_kinds(
        config.input_uri, config.extensions, model, kinds, anonymous=config.anonymous
    )
    for kind, own in zip(kinds, measured, strict=True):
        kind.size_bytes = kind.size_bytes or kind.num_images * own.mean_bytes  # lists have no sizes
    work = sum_up(inventory, kinds, measured, is_on_s3=source.uri.startswith("s3://"))
    number = config.num_instances
    price = instance.usd_per_hour if config.usd_per_hour is None else config.usd_per_hour
    ec2 = Machines(
        f"{number} x {config.instance_type}",
        number * instance.num_cpus,
        number * instance.num_gpus,
        number * instance.gbit_per_s,
        number * price,
        number * instance.num_gpus * instance.images_per_s_per_gpu,
    )
    estimates = (estimate(work, find_cluster()), estimate(move_to_s3(work), ec2))
    formats, num_sampled = _mix_formats(kinds, measured)
    return Plan(
        input_uri=source.uri,
        num_objects=round(inventory.num_objects),
        num_images=round(work.num_images),
        size_bytes=round(inventory.size_bytes),
        relative_error=inventory.relative_error,
        num_list_requests=inventory.num_list_requests,
        num_prefixes=inventory.num_prefixes,
        kinds={kind.ending: round(kind.num_images) for kind in inventory.kinds},
        formats=formats,
        num_sampled=num_sampled,
        num_gets=round(work.num_gets),
        cost=_mean_cost(kinds, measured),
        is_on_s3=work.is_on_s3,
        estimates=estimates,
    )


def find_cluster() -> Machines:
    """The Ray cluster that `RAY_ADDRESS` names, or else this machine's CPUs.

    Ray itself would also join a cluster that runs here, and use GPUs: only starting it would tell.
    """
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        return Machines(THIS_MACHINE, count_cpus(), 0, None, None)
    import ray

    from mnist_ocr.session import connect_ray

    connect_ray()
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_cpus = max(int(cluster.get("CPU", 0)), 1)
    return Machines("this cluster", num_cpus, cluster.get("GPU", 0), None, None)


def sum_up(
    inventory: Inventory, kinds: list[Kind], measured: list[Measurement], *, is_on_s3: bool
) -> Workload:
    """The job, from what each kind's sample costs."""
    pairs = list(zip(kinds, measured, strict=True))
    num_shards = inventory.num_images / LabelConfig.shard_size
    read_rows_s = inventory.num_images * READ_ROW_CORE_S

    def total(stage: str) -> float:
        again = count_reads if stage.startswith("fetch") else lambda _: 1.0
        return sum(
            kind.num_images * again(kind) * float(getattr(own.cost, stage)) for kind, own in pairs
        )

    return Workload(
        num_images=inventory.num_images,
        num_gets=sum(count_gets(kind) for kind in inventory.kinds),
        num_lists=inventory.num_objects / 1000,
        num_puts=PUTS_PER_SHARD * num_shards,
        num_prefixes=max(inventory.num_prefixes, 1),
        transfer_bytes=sum(
            kind.size_bytes * (count_reads(kind) + kind.is_listed_by_reading)
            for kind in inventory.kinds
        ),
        list_core_s=inventory.list_core_s + inventory.num_images * WRITE_ROW_CORE_S,
        fetch_core_s=total("fetch") + read_rows_s,
        fetch_wait_s=total("fetch_wait") + read_rows_s,
        decode_core_s=total("decode"),
        predict_core_s=total("predict"),
        write_core_s=total("write"),
        is_on_s3=is_on_s3,
    )


def count_reads(kind: Kind) -> float:
    """Times that workers read a kind's bytes.

    A shard that begins within a stream reads what is before it again, half of it on average.
    """
    return 1 + kind.num_in_stream / LabelConfig.shard_size / 2


def count_gets(kind: Kind) -> float:
    """Requests for a kind's bytes: one for an object, a few for an archive."""
    if not kind.is_archive:
        return kind.num_objects
    num_shards = kind.num_images / LabelConfig.shard_size  # each asks anew
    request_bytes = CHUNK_BYTES if kind.num_in_stream else MAX_SPAN_BYTES
    reading = kind.num_objects + count_reads(kind) * kind.size_bytes / request_bytes + num_shards
    if kind.is_listed_by_reading:
        return reading + kind.num_objects + kind.size_bytes / CHUNK_BYTES
    return reading + 2 * kind.num_objects


def _mean_cost(kinds: list[Kind], measured: list[Measurement]) -> Cost:
    weight = sum(kind.num_images for kind in kinds) or 1.0
    pairs = list(zip(kinds, measured, strict=True))
    return Cost(
        **{
            name: sum(kind.num_images * getattr(own.cost, name) for kind, own in pairs) / weight
            for name in Cost.__dataclass_fields__
        }
    )


def _mix_formats(kinds: list[Kind], measured: list[Measurement]) -> tuple[dict[str, float], int]:
    """Shares, each kind by its number of images, and how many images they are of."""
    shares: dict[str, float] = {}
    num_images = sum(kind.num_images for kind in kinds) or 1.0
    for kind, own in zip(kinds, measured, strict=True):
        for name, count in own.formats.items():
            share = kind.num_images / num_images * count / own.formats.total()
            shares[name] = shares.get(name, 0) + share
    return shares, sum(own.formats.total() for own in measured)
