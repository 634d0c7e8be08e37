"""The metrics and labels that PromQL expressions name."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "cluster/observability"

ADDED_BY_PROMETHEUS = {"instance", "job"}
"""Labels that are in no scrape."""

_SELECTOR = re.compile(r"\b((?:ray_|up\b)\w*)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on|group_left|group_right|without) \(([^)]*)\)")


def read_dashboard() -> dict[str, Any]:
    """The dashboard's JSON."""
    dashboard: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return dashboard


def read_alerts() -> list[dict[str, Any]]:
    """All alert rules."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def read_expressions() -> dict[str, str]:
    """Every expression, by the panel and letter, or the alert, that it belongs to."""
    found = {rule["alert"]: rule["expr"] for rule in read_alerts()}
    for panel in read_dashboard()["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def find_metrics(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression, each with the labels that select among its series."""
    found: dict[str, set[str]] = {}
    for name, matchers in _SELECTOR.findall(_GROUPING.sub("", expression)):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        found.setdefault(name, set()).update(labels - ADDED_BY_PROMETHEUS)
    return found


def find_groups(expression: str) -> set[str]:
    """The labels that an expression groups by."""
    lists = _GROUPING.findall(expression)
    return set(re.findall(r"\w+", " ".join(lists))) - ADDED_BY_PROMETHEUS
