"""Python and packages: the same on every machine?"""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mnist_ocr
from mnist_ocr.diagnosis.findings import Finding

PACKAGES = ("ray", "torch", "onnxruntime", "numpy", "pyarrow", "opencv-python-headless")
"""Whose versions the rows, or working together at all, depend on."""

CHECK = "versions"


def look_at_versions() -> dict[str, str]:
    """Version by name, "" of what is not installed; imports nothing."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return {**found, "mnist-ocr": f"{mnist_ocr.__version__} (code {hash_code()})"}


def hash_code() -> str:
    """Twelve hex digits that change with any module of this package: versions often do not."""
    root = Path(mnist_ocr.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def judge_versions(found: Mapping[str, str], expected: Mapping[str, str]) -> Iterator[Finding]:
    """Findings about a machine.

    Args:
        found: On it.
        expected: On the driver.
    """
    missing = [name for name in expected if not found.get(name)]
    different = [
        f"{name} {found[name]} (the driver has {expected[name] or 'none'})"
        for name in expected
        if name not in missing and found[name] != expected[name]
    ]
    if missing:
        yield Finding(
            CHECK,
            "problem",
            f"not installed: {', '.join(missing)}",
            "Install mnist-ocr there, with constraints.txt.",
        )
    if different:
        yield Finding(
            CHECK,
            "problem",
            f"other versions: {', '.join(different)}",
            "Install the driver's there, with constraints.txt, or start all nodes from one image; "
            "for code that is not installed submit with --working-dir.",
        )
    if not missing and not different:
        yield Finding(CHECK, "ok", ", ".join(f"{name} {found[name]}" for name in expected))
