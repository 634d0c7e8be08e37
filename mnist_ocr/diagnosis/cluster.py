"""The nodes of a Ray cluster, each asked by a task that is bound to it."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_ocr.diagnosis.looking import Trouble, look_at_all
from mnist_ocr.diagnosis.machine import Report, Request, look_at_machine
from mnist_ocr.session import reach_head


@dataclass(frozen=True)
class Node:
    """A node, and what it answered."""

    name: str
    resources: Mapping[str, float]
    """What Ray takes it to have."""
    report: Report | Trouble
    clock_skew_s: float = 0
    """By how much its clock is ahead of the driver's, to a fraction of a second."""


def join_cluster(address: str, timeout_s: float) -> None:
    """Connect this process to a cluster that runs.

    Args:
        address: `HOST:PORT`, or `auto`.
        timeout_s: For the head to answer: Ray itself waits for minutes where a port is open and
            silent.

    Raises:
        ConnectionError: there is none, it refuses, or is of another version of Ray or Python.
    """
    if ray.is_initialized():
        return
    answer = look_at_all({"head": partial(_join, address)}, timeout_s)["head"]
    if isinstance(answer, Trouble):
        raise ConnectionError(
            f"No Ray cluster at {address}: {answer.message}. Check the address, the firewall, "
            "RAY_AUTH_MODE and the token, and that Ray and Python have the cluster's versions."
        )


def _join(address: str) -> None:
    reach_head(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.RayError as error:  # goes on at length
        raise ConnectionError(str(error).partition(". ")[0]) from error


def ask_nodes(request: Request) -> list[Node]:
    """What every node that is alive has to say, in the order of Ray's list."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in nodes if node["Alive"]]
    names = name_nodes(alive)
    task: Any = ray.remote(look_at_machine)
    asked: dict[Any, int] = {}
    for i, node in enumerate(alive):
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = task.options(num_cpus=0, max_retries=0, scheduling_strategy=here)
        asked[options.remote(request)] = i
    answers: dict[int, tuple[Report | Trouble, float]] = {}
    deadline = time.monotonic() + request.timeout_s
    while asked and (left := deadline - time.monotonic()) > 0:
        ready, _ = ray.wait(list(asked), timeout=left)
        for reference in ready:
            answers[asked.pop(reference)] = _get(reference)
    for reference in asked:
        ray.cancel(reference, force=True)
    late = Trouble(
        f"the node has not answered within {request.timeout_s:g} s",
        "Look at it (`ray status`, its logs), restart Ray there, or pass a larger --timeout-s.",
    )
    return [
        Node(name, node["Resources"], *answers.get(i, (late, 0.0)))
        for i, (name, node) in enumerate(zip(names, alive, strict=True))
    ]


def _get(reference: Any) -> tuple[Report | Trouble, float]:
    """An answer that is there, and how far its clock is ahead of this one."""
    now = time.time()
    try:
        report: Report = ray.get(reference)
    except Exception as error:  # of Ray, or of an import over there
        text = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return Trouble(
            f"the check failed there: {text}",
            "Install the driver's mnist-ocr on that node, or submit with --working-dir; Ray's logs "
            "there say more.",
        ), 0
    return report, report.time_s - now


def name_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each by its address; those that share one with a part of their id."""
    addresses = [str(node["NodeManagerAddress"]) for node in nodes]
    return [
        f"{address} ({node['NodeID'][:6]})" if addresses.count(address) > 1 else address
        for address, node in zip(addresses, nodes, strict=True)
    ]
