"""`diagnose(config)`: looks at this machine, at a cluster's nodes and at the stores."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mnist_ocr.diagnosis.access import Trial, remove_trial
from mnist_ocr.diagnosis.clock import judge_clock
from mnist_ocr.diagnosis.config import DoctorConfig
from mnist_ocr.diagnosis.findings import DRIVER, Finding, Line, merge
from mnist_ocr.diagnosis.gpus import Gpus, compare_drivers
from mnist_ocr.diagnosis.looking import Trouble, explain, look_at_all
from mnist_ocr.diagnosis.machine import (
    Report,
    Request,
    judge_machine,
    look_at_machine,
)
from mnist_ocr.diagnosis.table import format_lines

if TYPE_CHECKING:
    from mnist_ocr.diagnosis.cluster import Node

CHECK = "cluster"

RAY_TIMEOUT_S = 10.0
"""Seconds that a head may take to list its nodes, and to hand over their answers."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    address: str | None
    """Of the cluster that was asked, if one was."""
    nodes: list[str]
    """Their names."""
    num_problems: int
    num_warnings: int
    lines: list[Line]

    def format(self) -> str:
        """A table for a terminal, the verdict last."""
        return format_lines(self.lines, self.nodes)


def diagnose(config: DoctorConfig) -> Diagnosis:
    """Look, try and compare. Starts no cluster, and leaves nothing behind.

    Never raises for what it finds, and takes about `config.timeout_s` for the driver and again for
    the nodes at most.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    address = None if address == "local" else address  # which would start one
    request = Request(
        config.input_uri,
        config.output_uri,
        config.model_uri,
        config.anonymous,
        config.timeout_s,
        is_driver=True,
    )
    driver = look_at_machine(request)
    trial = driver.facts.get("output")
    for_nodes = replace(
        request, is_driver=False, driver_file=trial.name if isinstance(trial, Trial) else None
    )
    try:
        cluster, nodes = _ask_cluster(address, for_nodes)
    finally:
        driver = _clean_up(driver, config.timeout_s)
    lines = merge(_judge(cluster, driver, nodes))
    return Diagnosis(
        address=address,
        nodes=[node.name for node in nodes],
        num_problems=sum(line.level == "problem" for line in lines),
        num_warnings=sum(line.level == "warning" for line in lines),
        lines=lines,
    )


def _ask_cluster(address: str | None, request: Request) -> tuple[Finding, "list[Node]"]:
    """What there is to say of the cluster, and of each node."""
    if address is None:
        text = "none was asked: --address HOST:PORT names one, auto the one that runs here"
        return Finding(CHECK, "ok", text), []
    from mnist_ocr.diagnosis.cluster import ask_nodes, join_cluster

    try:
        join_cluster(address, request.timeout_s)
    except ConnectionError as error:
        return Finding(CHECK, "problem", *explain(error)), []
    # a head may fall silent: a node's own time, and some for Ray
    asking = look_at_all({"nodes": partial(ask_nodes, request)}, request.timeout_s + RAY_TIMEOUT_S)
    nodes = asking["nodes"]
    if isinstance(nodes, Trouble):
        return Finding(CHECK, "problem", f"{address}: {nodes.message}", nodes.remedy), []
    number = f"{len(nodes):,} node{'s' * (len(nodes) != 1)}"
    return Finding(CHECK, "ok", f"{number} at {address}"), nodes


def _clean_up(driver: Report, timeout_s: float) -> Report:
    """Delete the driver's file in the output, and say what came of that."""
    trial = driver.facts.get("output")
    if not isinstance(trial, Trial):
        return driver
    gone = look_at_all({"output": partial(remove_trial, trial)}, timeout_s)
    return replace(driver, facts={**driver.facts, **gone})


def _judge(cluster: Finding, driver: Report, nodes: "list[Node]") -> Iterator[tuple[str, Finding]]:
    """Findings, each with its machine."""
    yield DRIVER, cluster
    for node in nodes:
        if isinstance(node.report, Trouble):
            yield node.name, Finding(CHECK, "problem", *node.report)
    for finding in judge_machine(driver, driver):
        yield DRIVER, finding
    drivers: dict[str, str] = {}
    for node in nodes:
        if isinstance(node.report, Trouble):
            continue
        for finding in judge_machine(node.report, driver, node.resources):
            yield node.name, finding
        yield node.name, judge_clock(node.clock_skew_s, "the driver")
        gpus = node.report.facts["gpus"]
        if isinstance(gpus, Gpus) and gpus.driver:
            drivers[node.name] = gpus.driver
    for finding in compare_drivers(drivers):
        yield DRIVER, finding
