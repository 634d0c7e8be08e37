"""`cluster/observability/`: what promtool says, and the dashboard's form. Not opened in Grafana."""

import os
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql import FOLDER, find_groups, find_metrics, read_alerts, read_dashboard, read_expressions

ROOT = FOLDER.parents[1]
PANELS = read_dashboard()["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Prometheus's own checker, which `make tools` fetches."""
    tool = ROOT / ".tools/promtool"
    if not tool.exists():
        if os.environ.get("MNIST_OCR_TEST_DATA"):
            pytest.fail("there is no .tools/promtool: run `make tools`")
        pytest.skip("run `make tools` for promtool")
    return tool


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_finds_no_fault(promtool: Path, arguments: list[str]) -> None:
    """The files are valid, and each alert fires when it should and not otherwise."""
    done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_expressions_of_the_dashboard_are_valid(promtool: Path, tmp_path: Path) -> None:
    """As PromQL, with Grafana's variables filled in."""
    rules = [
        {"record": f"panel:{i}", "expr": expression.replace("$__rate_interval", "1m")}
        for i, expression in enumerate(read_expressions().values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    """alerts_test.yml has each fire, and has each stay quiet."""
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    quiet, firing = set(), set()
    for test in tests:
        for case in test.get("alert_rule_test", []):
            (firing if case.get("exp_alerts") else quiet).add(case["alertname"])
        for case in test.get("promql_expr_test", []):
            for sample in case["exp_samples"]:
                firing.update(re.findall(r'alertname="(\w+)"', sample["labels"]))
    names = {rule["alert"] for rule in read_alerts()}
    assert quiet == names
    assert firing == names


@pytest.mark.parametrize("rule", read_alerts(), ids=lambda rule: rule["alert"])
def test_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    """With a severity; panels that it names exist."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    description = rule["annotations"]["description"]
    assert len(description) > 40
    titles = {panel["title"] for panel in PANELS}
    for panel in re.findall(r'panel "([^"]+)"', description):
        assert panel in titles


def test_panels_fill_a_grid_without_overlaps() -> None:
    """Ids are unique, nothing leaves the 24 columns, and each panel is below its row's title."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        grid = panel["gridPos"]
        assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)
    tops = [panel["gridPos"]["y"] for panel in PANELS]
    assert tops == sorted(tops)
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Progress", "Errors", "Store", "Stages", "GPU, CPU, memory", "Training"]


@pytest.mark.parametrize("panel", GRAPHS, ids=lambda panel: panel["title"])
def test_panel_explains_itself(panel: dict[str, Any]) -> None:
    """A sentence, a unit, a legend for each line, and no data source but the one chosen on top."""
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["legendFormat"]
        if " by (" in target["expr"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= set(
                re.findall(r"\w+", ",".join(re.findall(r" by \(([^)]*)", target["expr"])))
            )
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters))


def test_variables_are_those_that_expressions_use() -> None:
    """`$job_id` and the data source; Grafana itself knows `$__rate_interval`."""
    variables = {variable["name"] for variable in read_dashboard()["templating"]["list"]}
    used = {name for expr in read_expressions().values() for name in re.findall(r"\$(\w+)", expr)}
    assert used - {"__rate_interval"} | {"datasource"} == variables


def test_metrics_of_expressions_are_found() -> None:
    """Names and labels, but not the labels that only look like names."""
    expression = 'sum by (ray_x, job) (rate(ray_a_total{s!~"b|c", t="d"}[5m])) > 0 and ray_b == 1'
    assert find_metrics(expression) == {"ray_a_total": {"s", "t"}, "ray_b": set()}
    assert find_groups(expression) == {"ray_x"}


def test_documentation_names_every_metric_of_ours() -> None:
    """And none that is not there."""
    source = (ROOT / "mnist_ocr/labelling/monitoring.py").read_text()
    counters = re.findall(r'tally\(\s*"(\w+)"', source)
    gauges = re.findall(r'gauge\("(\w+)"', source)
    names = {f"ray_mnist_ocr_{name}_total" for name in counters}
    names |= {f"ray_mnist_ocr_{name}" for name in [*gauges, "shard_seconds"]}
    readme = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `(ray_mnist_ocr_\w+)", readme, re.MULTILINE)) == names
    used = {name for expr in read_expressions().values() for name in find_metrics(expr)}
    ours = {name.removesuffix("_bucket") for name in used if name.startswith("ray_mnist_ocr")}
    assert ours == names
