"""A labelling job on a real Ray, as Prometheus and a log collector see it."""

import os
import re
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ray
from promql import find_groups, find_metrics, read_expressions
from services import read_worker_lines

from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.log_lines import VARIABLE

SCRAPE_S = 60
"""Ray's workers report every ten seconds."""

UNDER_CIRCUMSTANCES = {
    "up": "of Prometheus itself",
    "ray_node_gpus_utilization": "GPUs",
    "ray_train_controller_state": "training",
    "ray_train_worker_group_start_total_time_s": "training",
    "ray_train_worker_group_shutdown_total_time_s": "training",
    "ray_memory_manager_worker_eviction_total": "memory that ran out",
}
"""Metrics that no scrape here has: their names and labels are held against Ray's source instead.

A training run here is over before its controller's first report is certain to come.
"""


@ray.remote(max_retries=0)
def end_worker() -> None:
    """As a crash would."""
    os.kill(os.getpid(), signal.SIGKILL)


def find_node() -> dict[str, Any]:
    """The one that is alive; other tests have lost theirs."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    return node


def scrape() -> dict[str, set[str]]:
    """The metrics of this node, each with its labels."""
    node = find_node()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.mark.usefixtures("ray_session")
def test_dashboard_and_alerts_name_what_a_job_reports(
    tmp_path: Path,
    model_uri: str,
    digit_images: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each metric, with each label, is in a scrape of the node; and each shard has a log line."""
    with pytest.raises(ray.exceptions.WorkerCrashedError):  # is counted, too
        ray.get(end_worker.remote())
    monkeypatch.setenv(VARIABLE, "json")
    scans = tmp_path / "scans"
    scans.mkdir()
    for i, image in enumerate(digit_images[:200]):
        (scans / f"{i:03d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (scans / "text.png").write_bytes(b"not an image")
    config = LabelConfig(
        str(scans), str(tmp_path / "out"), model_uri, shard_size=64, num_gpus_per_actor=0.0
    )
    found: dict[str, set[str]] = {}

    def look(_: object = None) -> None:
        """What Prometheus sees of the job, from its start to its end."""
        for name, labels in scrape().items():
            found.setdefault(name, set()).update(labels)

    summary = label(config, look)
    deadline = time.monotonic() + SCRAPE_S
    while find_missing(found) and time.monotonic() < deadline:
        look()
        time.sleep(0.5)
    assert find_missing(found) == []

    lines = read_worker_lines(summary.job_id)
    done = {line["shard"]: line for line in lines if line["message"] == "shard done"}
    assert sorted(done) == [0, 1, 2, 3]
    assert sum(line["num_images"] for line in done.values()) == 201
    assert sum(line["statuses"].get("not_an_image", 0) for line in done.values()) == 1
    for line in done.values():
        assert set(line["seconds"]) == {
            "list", "wait", "fetch", "decode", "canonicalise", "predict", "write"
        }  # fmt: skip
        assert line["node_id"] == find_node()["NodeID"]
        assert line["ray_job_id"] == ray.get_runtime_context().get_job_id()


def find_missing(found: dict[str, set[str]]) -> list[str]:
    """Metrics, selectors and groupings of our files that have nothing to show."""
    missing = []
    for place, expression in read_expressions().items():
        metrics = find_metrics(expression)
        if metrics.keys() & UNDER_CIRCUMSTANCES.keys():
            continue
        for name, labels in metrics.items():
            missing += [f"{place}: {name} {label}" for label in labels - found.get(name, set())]
            missing += [] if name in found else [f"{place}: {name}"]
        known = set().union(*(found.get(name, set()) for name in metrics))
        missing += [f"{place}: by {label}" for label in find_groups(expression) - known]
    return missing


def test_metrics_that_need_circumstances_are_those_that_ray_defines() -> None:
    """A renamed metric or label is noticed without a GPU, a training run or too little memory."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
    from ray.train.v2._internal.metrics.base import RUN_ID_TAG_KEY, RUN_NAME_TAG_KEY
    from ray.train.v2._internal.metrics.controller import ControllerMetrics

    raylet = (Path(ray.__file__).with_name("core") / "src/ray/raylet/raylet").read_bytes()
    definitions = {
        "GPUs": set(METRICS_GAUGES),
        "training": {value for value in vars(ControllerMetrics).values() if isinstance(value, str)},
    }
    for name, circumstance in UNDER_CIRCUMSTANCES.items():
        plain = name.removeprefix("ray_")
        if circumstance == "memory that ran out":  # Prometheus's counters end in _total
            assert plain.removesuffix("_total").encode() in raylet, name
        elif circumstance in definitions:
            assert plain in definitions[circumstance], name

    run_labels = {RUN_NAME_TAG_KEY, RUN_ID_TAG_KEY}
    state_labels = run_labels | {ControllerMetrics.CONTROLLER_STATE_TAG_KEY}
    for place, expression in read_expressions().items():
        for name, selected in find_metrics(expression).items():
            if name in UNDER_CIRCUMSTANCES:
                state = name == "ray_train_controller_state"
                known = state_labels if state else run_labels if "_train_" in name else set()
                assert selected | find_groups(expression) <= known, place
