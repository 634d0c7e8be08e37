"""The parts of a simulated cluster: nodes that come and go, servers, a store that divides itself.

Numbers in `Settings` are assumptions unless they say where they were measured. Instances, prices
and rates are those of `mnist-ocr plan`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mnist_ocr.labelling.instances import GETS_PER_PREFIX_AND_S, SPOT_SHARE, find_instance
from mnist_ocr.labelling.limits import S3_LATENCY_S, Machines

HEAD = "m7i.large"
"""As in cluster/aws.yaml: on demand, and no work on it."""

NODE_USD_PER_HOUR = 150 * 0.08 / 730 + 0.005
"""Beside the instance: 150 GB of gp3 and a public address, us-east-1, 2026."""


class Fleet(NamedTuple):
    """Nodes of a kind."""

    instance: str
    count: int
    is_spot: bool = True


@dataclass(frozen=True)
class Settings:
    """What happens around a job."""

    seed: int = 0
    shard_size: int = 8192
    boot_s: tuple[float, float] = (180.0, 420.0)
    """From the order of a node to its place in Ray: drawn from this range. The job starts with the
    last one, since its actors are as many as there is room for then."""
    actor_start_s: float = 10.0
    """Until a node's actors have their first shard; 8 to 12 measured, on two cores."""
    interruptions_per_hour: float = 0.05
    """Of each spot node."""
    is_drained: bool = True
    """Whether nodes take no shard after the notice, two minutes before they go."""
    notice_s: float = 120.0
    lost_after_s: float = 30.0
    """Until Ray gives up a node that went without a word, and has its shards done elsewhere."""
    partition_rate: float = GETS_PER_PREFIX_AND_S
    served_share: float = 0.9
    """Of the store's rate, that pacing makes use of (tests/unit/test_pacing.py)."""
    split_after_s: tuple[float, float] = (1800.0, 3600.0)
    """That a store is too busy until it has divided every partition in two."""
    max_partitions: int = 32
    """As many key ranges as a job reads at once: its lanes."""
    list_latency_s: float = S3_LATENCY_S
    max_lanes: int = 32
    shares_cores: bool = False
    """Whether listing and driver run on the workers' cores: a job on one machine."""


class Server:
    """Takes one thing after the other."""

    def __init__(self) -> None:
        self.free_at = self.busy_s = 0.0

    def serve(self, at: float, seconds: float) -> float:
        """When something is done that comes at `at`."""
        self.busy_s += seconds
        self.free_at = max(self.free_at, at) + seconds
        return self.free_at


class PartitionedStore(Server):
    """A server for requests, of partitions that double while there are more than it takes."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        super().__init__()
        self._settings, self._rng = settings, rng
        self.num_partitions, self._split_at = 1, math.inf

    def get(self, at: float, num_gets: float) -> float:
        """When the answers to so many requests are there."""
        settings = self._settings
        if self.free_at <= at + 1 or self.num_partitions >= settings.max_partitions:
            self._split_at = math.inf
        elif self._split_at == math.inf or self._split_at <= at:
            if self._split_at <= at:
                self.num_partitions *= 2
            self._split_at = at + self._rng.uniform(*settings.split_after_s)
        rate = settings.partition_rate * self.num_partitions * settings.served_share
        return self.serve(at, num_gets / rate)


class Node:
    """A place in the cluster: a spot instance that is lost is followed by another one."""

    def __init__(self, settings: Settings, rng: random.Random, *, is_spot: bool) -> None:
        self._settings, self._rng = settings, rng
        self._rate = settings.interruptions_per_hour / 3600 * is_spot
        self._lives = [self._draw(0.0)]

    def _draw(self, up_at: float) -> tuple[float, float]:
        return up_at, up_at + (self._rng.expovariate(self._rate) if self._rate else math.inf)

    def life(self, number: int) -> tuple[float, float]:
        """From when until when its instance of this number works."""
        while number >= len(self._lives):
            boot_s = self._rng.uniform(*self._settings.boot_s) + self._settings.actor_start_s
            self._lives.append(self._draw(self._lives[-1][1] + boot_s))
        return self._lives[number]

    def count_lost(self, until: float) -> int:
        """Instances that were lost before."""
        return sum(end < until for _, end in self._lives)


def sum_machines(fleets: Sequence[Fleet]) -> Machines:
    """All nodes as `plan` sees a cluster; the price with the head, disks and addresses."""
    kinds = [(find_instance(fleet.instance), fleet) for fleet in fleets]
    usd = find_instance(HEAD).usd_per_hour + NODE_USD_PER_HOUR
    for kind, fleet in kinds:
        share = SPOT_SHARE if fleet.is_spot else 1.0
        usd += fleet.count * (kind.usd_per_hour * share + NODE_USD_PER_HOUR)
    return Machines(
        name=" + ".join(f"{fleet.count} x {fleet.instance}" for fleet in fleets),
        num_cpus=sum(kind.num_cpus * fleet.count for kind, fleet in kinds),
        num_gpus=sum(kind.num_gpus * fleet.count for kind, fleet in kinds),
        gbit_per_s=sum(kind.gbit_per_s * fleet.count for kind, fleet in kinds),
        usd_per_hour=usd,
        gpu_images_per_s=sum(
            kind.num_gpus * kind.images_per_s_per_gpu * fleet.count for kind, fleet in kinds
        ),
    )
