"""A labelling job on a cluster, shard by shard: what a formula cannot tell.

    outcome = simulate(work, [Fleet("c7i.2xlarge", 16)], Settings(seed=0))

What an image costs, and what limits a job, is `plan`'s (`mnist_ocr/labelling/limits.py`): this adds
the order in which things happen. Each shard passes the listing, the driver, a worker, the store
and, where there are some, the GPUs. A worker has one shard at a time; the others are *servers*,
which take shards one after the other, so that shares of a store's rate, which workers find by
themselves (`mnist_ocr/pacing.py`), come out as the same sum.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from scale_cluster import Fleet, Node, PartitionedStore, Server, Settings, sum_machines

from mnist_ocr.labelling.instances import find_instance
from mnist_ocr.labelling.limits import (
    CORES,
    DRIVER,
    DRIVER_S_PER_SHARD,
    GPUS,
    LISTING,
    REQUESTS,
    Workload,
)
from mnist_ocr.labelling.manifest import SPLIT_AT, SPLIT_INTERVAL, size_of_shard


@dataclass
class Outcome:
    """What a job came to."""

    hours: float
    """From the order of the nodes to the last shard."""
    job_s: float
    """Of the job alone."""
    first_s: float
    """To its first shard."""
    images_per_s: float
    """From the first shard to the last."""
    usd: float
    """For instances, disks and addresses, the head's, too."""
    loads: dict[str, float]
    """Share of the job's seconds for which each limit was at work."""
    tail_s: float
    """From the first worker without a shard to the end."""
    num_shards: int
    num_lost_nodes: int
    num_repeated: int
    """Shards that were begun on a node which then went."""
    num_partitions: int
    """Of the store, at the end."""
    timeline: list[tuple[float, int]] = field(repr=False)
    """Seconds of the job, and images of each shard that ended then."""

    @property
    def limit(self) -> str:
        """What was busiest."""
        return max(self.loads, key=lambda name: self.loads[name])


class _Run:
    """A job under way."""

    def __init__(self, work: Workload, fleets: Sequence[Fleet], settings: Settings) -> None:
        # a generator each: what one of them draws more of does not change the others
        boots, lives, splits = (
            random.Random(f"{settings.seed} {name}") for name in ("boots", "lives", "splits")
        )
        self._work, self._settings = work, settings
        self.machines = sum_machines(fleets)
        self.driver, self.gpus, self.store = Server(), Server(), PartitionedStore(settings, splits)
        self.nodes: list[Node] = []
        self.workers: list[tuple[float, int, int]] = []
        """When each is free, the number of its node, and which of the node's lives it is in."""
        for fleet in fleets:
            for _ in range(fleet.count):
                places = find_instance(fleet.instance).num_cpus
                self.workers += [(settings.actor_start_s, len(self.nodes), 0)] * places
                self.nodes.append(Node(settings, lives, is_spot=fleet.is_spot))
        self.boot_s = max(boots.uniform(*settings.boot_s) for _ in self.nodes)
        has_gpus, num_cpus = self.machines.num_gpus > 0, self.machines.num_cpus
        worker_s = work.worker_s(has_gpus=has_gpus)
        if self.machines.gbit_per_s:
            network_s = work.transfer_bytes * 8e-9 / self.machines.gbit_per_s
            worker_s = max(worker_s, network_s * num_cpus)
        if settings.shares_cores:
            worker_s += work.list_core_s + work.num_shards * DRIVER_S_PER_SHARD
        self._image_s = worker_s / work.num_images
        self.busy_s = self.last_idle_at = self.list_end = 0.0
        self.num_repeated = 0
        self.timeline: list[tuple[float, int]] = []

    def label(self, listing: Iterator[tuple[float, int]]) -> None:
        """Each shard in the order of the listing, those that were lost again."""
        upcoming, repeated = next(listing, None), deque[tuple[float, int]]()
        while upcoming or repeated:
            free_at, number, life = heappop(self.workers)
            is_repeat = not upcoming or (bool(repeated) and repeated[0][0] <= free_at)
            ready_at, size = repeated[0] if is_repeat else upcoming or (0.0, 0)
            at = max(free_at, ready_at)
            _, lost_at = self.nodes[number].life(life)
            if at >= lost_at - self._settings.notice_s * self._settings.is_drained:
                self._wait_for_next_life(number, life)
                continue
            if is_repeat:
                repeated.popleft()
            else:
                self.list_end, upcoming = ready_at, next(listing, None)
            ended_at = self._work_on(size, at)
            if ended_at > lost_at:
                repeated.append((lost_at + self._settings.lost_after_s, size))
                self.num_repeated += 1
                self._wait_for_next_life(number, life)
                continue
            heappush(self.workers, (ended_at, number, life))
            self.last_idle_at = free_at
            rate = self.machines.gpu_images_per_s
            done_at = self.gpus.serve(ended_at, size / rate) if rate else ended_at
            self.timeline.append((done_at, size))
        self.timeline.sort()

    def _work_on(self, size: int, at: float) -> float:
        """When a worker is done with a shard that it may begin at `at`."""
        start = self.driver.serve(at, DRIVER_S_PER_SHARD)
        worker_s = size * self._image_s
        self.busy_s += worker_s
        if not self._work.is_on_s3:
            return start + worker_s
        num_gets = size * self._work.num_gets / self._work.num_images
        return max(start + worker_s, self.store.get(start, num_gets))

    def _wait_for_next_life(self, number: int, life: int) -> None:
        back_at, _ = self.nodes[number].life(life + 1)
        heappush(self.workers, (back_at, number, life + 1))


def simulate(
    work: Workload, fleets: Sequence[Fleet], settings: Settings, *, list_wait_s: float | None = None
) -> Outcome:
    """A whole job.

    Args:
        work: As `plan` sums it up.
        fleets: The worker nodes.
        settings: The rest.
        list_wait_s: Seconds of waiting for the listing's answers if they came one after the other;
            default a page of 1,000 keys each time.
    """
    run = _Run(work, fleets, settings)
    run.label(list_shards(work, settings, list_wait_s))
    (first_s, first), (job_s, _) = run.timeline[0], run.timeline[-1]
    busy = {
        CORES: run.busy_s / len(run.workers),
        LISTING: run.list_end,
        DRIVER: run.driver.busy_s,
        REQUESTS: run.store.busy_s,
        GPUS: run.gpus.busy_s,
    }
    hours = (run.boot_s + job_s) / 3600
    return Outcome(
        hours=hours,
        job_s=job_s,
        first_s=first_s,
        images_per_s=(work.num_images - first) / max(job_s - first_s, 1e-9),
        usd=hours * (run.machines.usd_per_hour or 0.0),
        loads={name: seconds / job_s for name, seconds in busy.items()},
        tail_s=max(job_s - run.last_idle_at, 0.0),
        num_shards=len(run.timeline),
        num_lost_nodes=sum(node.count_lost(job_s) for node in run.nodes),
        num_repeated=run.num_repeated,
        num_partitions=run.store.num_partitions,
        timeline=run.timeline,
    )


def list_shards(
    work: Workload, settings: Settings, list_wait_s: float | None = None
) -> Iterator[tuple[float, int]]:
    """When each shard is on record, and how many images it has.

    Lanes double as in `manifest.iterate_shards`; a shard takes the listing process's core, or the
    store's answers, of which as many come at once as there are lanes.
    """
    left, shard, lanes, now = round(work.num_images), 0, 1, 0.0
    if list_wait_s is None:
        list_wait_s = work.num_lists * settings.list_latency_s
    while left:
        if shard in SPLIT_AT or (shard and shard % SPLIT_INTERVAL == 0):
            lanes = min(2 * lanes, settings.max_lanes)
        size = min(size_of_shard(shard, settings.shard_size), left)
        share = size / work.num_images
        now += max(work.list_core_s * share, list_wait_s * share / lanes)
        yield now, size
        left, shard = left - size, shard + 1
