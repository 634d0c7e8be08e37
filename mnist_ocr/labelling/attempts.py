"""How often each shard was begun: one that has ended a worker is read with care, later given up.

Ray knows that a worker has died, and does not tell the one that takes over; so an actor on the
driver's node counts. A lost node, or counter, mean an attempt more or fewer: harmless.
"""

from collections import Counter
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_ocr.errors import JobFailedError
from mnist_ocr.labelling.manifest_shard import shard_name

MAX_ATTEMPTS = 4
"""At a shard: the first decodes in the worker itself, the others in a child process."""

MAX_NAMES = 10
"""Shards that an error names."""


class AttemptCounter:
    """An actor that counts."""

    def __init__(self) -> None:
        self._attempts = Counter[tuple[int, str]]()

    def count(self, shard: int, stage: str) -> int:
        """The number of this attempt, from 1."""
        self._attempts[shard, stage] += 1
        return self._attempts[shard, stage]

    def list_given_up(self) -> list[int]:
        """Shards that a stage began more than `MAX_ATTEMPTS` times."""
        return sorted({shard for (shard, _), num in self._attempts.items() if num > MAX_ATTEMPTS})


def start_counter() -> Any:
    """The handle of a new one, which ends with its handles."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor_class: Any = ray.remote(AttemptCounter)
    return actor_class.options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    ).remote()


def count_attempt(counter: Any, shard: int, stage: str = "read") -> int:
    """Tell the counter that a stage begins a shard; returns which attempt that is, from 1."""
    attempt: int = ray.get(counter.count.remote(shard, stage))
    return attempt


def check_none_given_up(counter: Any) -> None:
    """At the end of a job.

    Raises:
        JobFailedError: some were begun more than `MAX_ATTEMPTS` times.
    """
    if given_up := ray.get(counter.list_given_up.remote()):
        names = ", ".join(shard_name(shard) for shard in given_up[:MAX_NAMES])
        raise JobFailedError(
            f"{len(given_up):,} of the shards, {names}, were begun {MAX_ATTEMPTS} times each "
            "and never finished: a bug, too little memory, or nodes that were lost; Ray's logs say "
            "more. All other shards are done, and the same command tries these once more."
        )
