"""What `kubectl kustomize FOLDER` prints, for the part of kustomize that cluster/kuberay uses.

No package index that the tests can rely on has kustomize itself. Whatever this does not know is an
error, never ignored. Its output was compared with that of kubectl 1.32 (kustomize 5.5).
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
LOCAL = "config.kubernetes.io/local-config"
_KEYS = {
    *("apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator"),
    *("generatorOptions", "patches", "replacements"),
}


def render(folder: Path) -> list[Document]:
    """Build a folder with a kustomization.yaml.

    Raises:
        ValueError: kustomize would refuse it, or it uses what this module does not know.
    """
    return _build(folder, [])


def _build(folder: Path, documents: list[Document]) -> list[Document]:
    config = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    if unknown := set(config) - _KEYS:
        raise ValueError(f"{folder}: {sorted(unknown)}")
    for name in config.get("resources", []):
        path = folder / name
        documents += render(path) if path.is_dir() else _read(path)
    for name in config.get("components", []):
        documents = _build(folder / name, documents)
    for generator in config.get("configMapGenerator", []):
        documents.append(_generate_config_map(folder, generator))
    for patch in config.get("patches", []):
        for document in _select(documents, patch["target"]):
            for operation in yaml.safe_load(patch["patch"]):
                _patch(document, **operation)
    if namespace := config.get("namespace"):
        for document in documents:
            if document["kind"] != "Namespace":
                document["metadata"]["namespace"] = namespace
    for replacement in config.get("replacements", []):
        _replace(documents, **replacement)
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    if len(set(names)) < len(names):
        raise ValueError(f"{folder}: the same resource twice in {names}")
    return [each for each in documents if LOCAL not in each["metadata"].get("annotations", {})]


def _read(path: Path) -> list[Document]:
    # through text, since YAML's anchors are one object in several places
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return [_unshare(each) for each in documents]


def _unshare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshare(each) for key, each in value.items()}
    return [_unshare(each) for each in value] if isinstance(value, list) else value


def _generate_config_map(folder: Path, generator: Document) -> Document:
    (name,) = generator["envs"]
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    metadata = {"name": generator["name"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _select(documents: list[Document], target: Document) -> list[Document]:
    if unknown := set(target) - {"kind", "name"}:
        raise ValueError(f"select by {unknown}")
    return [
        each
        for each in documents
        if each["kind"] == target["kind"]
        and target.get("name", each["metadata"]["name"]) == each["metadata"]["name"]
    ]


def _replace(documents: list[Document], source: Document, targets: list[Document]) -> None:
    path = source.pop("fieldPath")
    (origin,) = _select(documents, source)
    parent, key = _find(origin, path)
    value = parent[key]
    for target in targets:
        create = target.get("options", {}).get("create", False)
        for document in _select(documents, target["select"]):
            for path in target["fieldPaths"]:
                parent, key = _find(document, path)
                if key not in parent and not create:
                    raise ValueError(f"{document['metadata']['name']} has no {path}")
                parent[key] = copy.deepcopy(value)


def _find(document: Any, path: str) -> tuple[Any, str]:
    """The object that holds a replacement's field, and the field's name in it."""
    *parents, last = list(_split(path))
    for part in parents:
        if "=" in part:
            key, wanted = part.split("=")
            found = [each for each in document if each.get(key) == wanted]
            if len(found) != 1:
                raise ValueError(f"{part} of {path}: {len(found)} found")
            document = found[0]
        else:
            document = document[part]
    return document, last


def _split(path: str) -> Iterator[str]:
    """`a.[b.c/d].[name=e]` -> `a`, `b.c/d`, `name=e`."""
    for part in path.replace(".[", "\n[").split("\n"):
        name, _, rest = part.partition("]")
        if part.startswith("["):
            yield name[1:]
            part = rest.removeprefix(".")
        yield from filter(None, part.split("."))


def _patch(document: Any, op: str, path: str, value: Any = None) -> None:
    """One operation of RFC 6902, of those three that are used."""
    *parents, last = path.strip("/").split("/")
    for part in parents:
        document = document[int(part) if isinstance(document, list) else part]
    key = int(last) if isinstance(document, list) else last
    if op == "test" and document[key] != value:
        raise ValueError(f"{path} is {document[key]}, not {value}")
    if op == "remove":
        del document[key]
    elif op == "replace":
        assert document[key] is not None
        document[key] = value
    elif op != "test":
        raise ValueError(f"patch with {op}")
