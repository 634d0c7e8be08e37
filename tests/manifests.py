"""cluster/kuberay, as `kubectl apply -k` would send it."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kustomization import Document, render

KUBERAY = Path(__file__).parents[1] / "cluster/kuberay"
FOLDERS = ("cluster", "train", "label", "label-on-cpus", "verify", "monitoring")
"""What can be applied; base/ and ray/ are what they are made of."""


@cache
def documents(folder: str) -> list[Document]:
    """What the folder comes to."""
    return render(KUBERAY / folder)


def find(folder: str, kind: str) -> Document:
    """The one document of a kind."""
    (found,) = (each for each in documents(folder) if each["kind"] == kind)
    return found


def ray_spec(folder: str) -> dict[str, Any]:
    """The nodes of the folder's RayCluster or RayJob."""
    if folder == "cluster":
        return dict(find(folder, "RayCluster")["spec"])
    return dict(find(folder, "RayJob")["spec"]["rayClusterSpec"])


def pod_templates(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template below the folder's documents, with where it is."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            if "containers" in value.get("spec", {}):
                yield path, value
            for key, each in value.items():
                yield from walk(each, f"{path}/{key}")
        elif isinstance(value, list):
            for i, each in enumerate(value):
                yield from walk(each, f"{path}/{i}")

    for document in documents(folder):
        yield from walk(document, document["kind"])


def containers(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container that runs, the autoscaler's too, which KubeRay adds to the head's pod."""
    for path, template in pod_templates(folder):
        for container in template["spec"]["containers"]:
            yield f"{path}/{container['name']}", container
    if folder not in {"verify", "monitoring"}:
        yield "autoscaler", ray_spec(folder)["autoscalerOptions"]


def read_settings() -> dict[str, str]:
    """What the pods see of base/settings.env."""
    return dict(find("label", "ConfigMap")["data"])
