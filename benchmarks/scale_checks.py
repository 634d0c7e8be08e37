"""The cluster model against what was measured: the same code, with the costs of that machine.

Measured are the README's labelling tables, on two cores of an AMD EPYC (Zen 5); the costs that go
in are those that the README gives beside them, stage by stage, and not fitted to the rates. Of the
MLP it gives a range, so that its points are ranges, too; the S3 server's share is assumed.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from scale_cluster import Fleet, Settings
from scale_inputs import (
    DECODE_S,
    LOOSE,
    MILLION,
    PREDICT_S,
    TAR,
    WRITE_S,
    build_work,
)
from scale_simulation import list_shards, simulate

from mnist_ocr.labelling.limits import Workload

TWO_CORES = [Fleet("m7i.large", 1, is_spot=False)]
"""Only their number counts here."""

FILE_S = 7.2e-6
"""To read a small file, as `plan` measured it."""

LIST_FILE_S = 10e-6
""""Listing adds 10 while it lasts.\""""

MLP_S = 46e-6, 31e-6
""""31 to 46 µs of one core with the MLP", all but the listing."""

SERVER_SHARE = 1 / 3
"""Of both cores, that the S3 server takes which runs there, too; assumed."""


class Check(NamedTuple):
    """A point that was measured."""

    name: str
    measured: float
    """Images, or objects, per second."""
    predicted: tuple[float, ...]
    """The lowest and the highest, where what goes in is a range."""


def run_checks() -> Iterator[Check]:
    """Each point of the README that the model speaks of."""
    cnn = _on_disk(60_000, FILE_S, DECODE_S, PREDICT_S, WRITE_S)
    yield Check("60,000 files, the shipped CNN", 12_026, _predict(cnn))
    few, many = ([_on_disk(num, 0, mlp_s, 0, 0) for mlp_s in MLP_S] for num in (60_000, 1_020_000))
    yield Check("60,000 files, an MLP", 35_044, _predict(*few))
    yield Check("1,020,000 files, an MLP", 39_302, _predict(*many))
    slower = 1 / (1 - SERVER_SHARE)
    loose = [_with_mlp(build_work(LOOSE, 20_000), mlp_s, slower) for mlp_s in MLP_S]
    yield Check("20,000 objects on S3, an MLP, keys given", 3_065, _predict(*loose))
    tars = [_with_mlp(build_work(TAR, 60_000), mlp_s, 1.0) for mlp_s in MLP_S]
    yield Check("60,000 images in 60 tars on S3, an MLP", 23_834, _predict(*tars))
    yield Check("10,000,000 keys listed in 32 lanes", 118_524, _predict_listing(1e7, 32))
    yield Check("200,000 keys, a page after the other", 9_310, _predict_listing(2e5, 1))


def _on_disk(
    num_images: int, fetch_s: float, decode_s: float, predict_s: float, write_s: float
) -> Workload:
    return replace(
        build_work(LOOSE, num_images),
        is_on_s3=False,
        list_core_s=num_images * LIST_FILE_S,
        fetch_core_s=num_images * fetch_s,
        fetch_wait_s=num_images * fetch_s,
        decode_core_s=num_images * decode_s,
        predict_core_s=num_images * predict_s,
        write_core_s=num_images * write_s,
    )


def _with_mlp(work: Workload, mlp_s: float, slower: float) -> Workload:
    """The MLP instead of the network and the steps around it; a store that answers at once."""
    num_images = work.num_images
    return replace(
        work,
        fetch_wait_s=0,
        fetch_core_s=work.fetch_core_s * slower,
        decode_core_s=num_images * mlp_s * slower,
        predict_core_s=0,
        write_core_s=0,
        list_core_s=0 if work.num_gets >= num_images else work.list_core_s,
    )


def _predict(*works: Workload) -> tuple[float, ...]:
    """Images/s on two cores, from the first shard to the last, as `sides.py` counts."""
    settings = Settings(shares_cores=True, partition_rate=1e9, actor_start_s=0, list_latency_s=1e-4)
    return tuple(simulate(work, TWO_CORES, settings).images_per_s for work in works)


def _predict_listing(num_objects: float, num_lanes: int) -> tuple[float]:
    """Objects/s of a simulated bucket, whose pages need not be taken apart."""
    work = replace(build_work(LOOSE, num_objects), list_core_s=num_objects * 6.6 / MILLION)
    *_, (seconds, _) = list_shards(work, Settings(max_lanes=num_lanes))
    return (num_objects / seconds,)
