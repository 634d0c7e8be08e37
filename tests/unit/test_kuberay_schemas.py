"""Every field of cluster/kuberay is one that Kubernetes or KubeRay knows."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kustomization import Document
from manifests import FOLDERS, documents, find, pod_templates

KUBERNETES = "1.33"

FREE_FORM = {
    *("metadata", "labels", "annotations", "matchLabels", "rayStartParams", "requests", "limits"),
    *("data", "capabilities"),
}
"""Objects whose keys a schema does not know, or not all of them."""


@pytest.fixture(scope="module")
def crds(test_data: Path) -> dict[str, jsonschema.protocols.Validator]:
    """Validators of KubeRay's kinds that refuse what Kubernetes would silently drop."""
    validators = {}
    for name in ("rayclusters", "rayjobs"):
        text = (test_data / f"kuberay/ray.io_{name}.yaml").read_text(encoding="utf-8")
        definition = yaml.load(text, yaml.CSafeLoader)["spec"]
        (schema,) = (
            version["schema"]["openAPIV3Schema"]
            for version in definition["versions"]
            if version["name"] == "v1"
        )
        close(schema)
        validators[definition["names"]["kind"]] = jsonschema.Draft202012Validator(schema)
    return validators


def close(schema: Any) -> None:
    """Make a schema refuse properties that it does not name."""
    if isinstance(schema, dict):
        if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            schema.setdefault("additionalProperties", False)
        for each in schema.values():
            close(each)
    elif isinstance(schema, list):
        for each in schema:
            close(each)


@pytest.mark.parametrize("folder", FOLDERS)
def test_ray_kinds_have_no_typo(crds: dict[str, Any], folder: str) -> None:
    """Every field of every RayCluster and RayJob is in KubeRay's own definition."""
    for document in documents(folder):
        if document["kind"] in crds:
            errors = crds[document["kind"]].iter_errors(document)
            assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_a_typo_would_be_seen(crds: dict[str, Any]) -> None:
    """Each field that the labelling job uses in turn, with a letter more, is refused."""
    job = copy.deepcopy(find("label", "RayJob"))
    fields = {path: (parent, key) for path, parent, key in keys_below(job)}
    for path, (parent, key) in fields.items():
        parent[f"{key}x"] = parent.pop(key)
        assert not crds["RayJob"].is_valid(job), path
        parent[key] = parent.pop(f"{key}x")
    assert len(fields) > 150
    assert crds["RayJob"].is_valid(job)


def keys_below(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every field below a document with the object that holds it, but for those of free form."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield f"{path}/{key}", value, key
            if key not in FREE_FORM:
                yield from keys_below(each, f"{path}/{key}")
    elif isinstance(value, list):
        for each in value:
            yield from keys_below(each, f"{path}/*")


def core_documents() -> dict[str, Document]:
    """What is neither KubeRay's nor Prometheus's, each once."""
    return {
        f"{document['kind']}/{document['metadata']['name']}": document
        for folder in FOLDERS
        for document in documents(folder)
        if document["apiVersion"] not in {"ray.io/v1", "monitoring.coreos.com/v1"}
    }


@pytest.mark.parametrize("name", core_documents())
def test_core_kinds_have_no_typo(name: str) -> None:
    """Every field is Kubernetes's own."""
    kubernetes_validate.validate(core_documents()[name], KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("name", "field"),
    [("NetworkPolicy/https", "policyTypes"), ("Job/verify", "activeDeadlineSeconds")],
)
def test_a_typo_of_a_core_kind_would_be_seen(name: str, field: str) -> None:
    """A field with a letter more is refused."""
    document = copy.deepcopy(core_documents()[name])
    document["spec"][f"{field}x"] = document["spec"].pop(field)
    with pytest.raises(kubernetes_validate.ValidationError, match=f"{field}x"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_metadata_have_no_typo() -> None:
    """The definitions of KubeRay's kinds and of the PodMonitor leave metadata open."""
    for folder in FOLDERS:
        metadata = [each["metadata"] for each in documents(folder)]
        metadata += [template["metadata"] for _, template in pod_templates(folder)]
        for each in metadata:
            assert set(each) <= {"name", "namespace", "labels", "annotations"}
