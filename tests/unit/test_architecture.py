"""The import rule of docs/design.md, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "mnist_ocr").rglob("*.py"))
JOBS = sorted((ROOT / "jobs").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE + JOBS}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


def may_not_import(module: str, name: str) -> bool:
    """Whether the rule forbids `module` to import `name`."""

    def within(child: str, parent: str) -> bool:
        return child == parent or child.startswith(f"{parent}.")

    is_command = module == "mnist_ocr.cli" or within(module, "jobs")
    ground = ["mnist_ocr.digits", "mnist_ocr.storage", "mnist_ocr.s3", "mnist_ocr.fsspec_store"]
    ground += ["mnist_ocr.local_store", "mnist_ocr.s3_errors", "mnist_ocr.errors"]
    ground += ["mnist_ocr.answers"]
    is_ground = any(within(module, part) for part in ground)
    wings = ["mnist_ocr.training", "mnist_ocr.labelling", "mnist_ocr.diagnosis"]
    return (
        (within(name, "tyro") and not is_command)
        or (within(name, "mnist_ocr.cli") and not is_command and module != "mnist_ocr.__main__")
        or (is_ground and within(name, "ray"))
        or (is_ground and any(within(name, wing) for wing in [*wings, "mnist_ocr.session"]))
        or any(
            within(module, wing) and within(name, other) for wing, other in permutations(wings, 2)
        )
        or (not within(module, "mnist_ocr.digits") and module in ground and within(name, ground[0]))
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """Commands know the wings, the wings the ground floor, nobody the other way round."""
    assert [name for name in imports_of(MODULES[module]) if may_not_import(module, name)] == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mnist_ocr.digits.model", "ray"),
        ("mnist_ocr.storage", "ray.data"),
        ("mnist_ocr.storage", "mnist_ocr.digits.model"),
        ("mnist_ocr.digits.model", "mnist_ocr.session"),
        ("mnist_ocr.training.loop", "mnist_ocr.labelling.config"),
        ("mnist_ocr.labelling.shards", "mnist_ocr.training"),
        ("mnist_ocr.labelling.label", "mnist_ocr.diagnosis.doctor"),
        ("mnist_ocr.diagnosis.access", "mnist_ocr.labelling.inputs"),
        ("mnist_ocr.storage", "mnist_ocr.diagnosis"),
        ("mnist_ocr.labelling.config", "tyro"),
        ("mnist_ocr.training.trainer", "mnist_ocr.cli"),
    ],
)
def test_the_rule_would_notice(module: str, name: str) -> None:
    """Each forbidden direction is one that the test above sees."""
    assert may_not_import(module, name)


@pytest.mark.parametrize("module", MODULES)
def test_only_commands_print_and_exit(module: str) -> None:
    """What a library function has to say it returns, raises or logs."""
    if module == "mnist_ocr.cli" or module.startswith("jobs."):
        return
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call)
    ]
    assert {"print", "exit", "quit", "sys.exit", "os._exit"} & set(calls) == set()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_runs_at_import(module: str) -> None:
    """A module's top level defines; at most it asks whether it is `__main__`."""
    for node in ast.parse(MODULES[module].read_text()).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), ast.unparse(node)  # a docstring
        if isinstance(node, ast.If):
            assert "__name__" in ast.unparse(node.test) or "TYPE_CHECKING" in ast.unparse(node.test)
        assert not isinstance(node, (ast.For, ast.While, ast.With, ast.Try)), ast.unparse(node)


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import mnist_ocr` pulls in neither torch nor Ray nor anything else that takes time."""
    code = "import sys, mnist_ocr; print(sorted({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_what_runs_on_nodes_imports_nothing_heavy() -> None:
    """`doctor` looks at machines where much may be broken, and in a hurry."""
    heavy = "{'torch', 'ray', 'cv2', 'onnxruntime', 'pyarrow', 'botocore'}"
    code = f"import sys, mnist_ocr.diagnosis.machine; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_files_stay_readable() -> None:
    """No file much over 250 lines."""
    lengths = {path.name: len(path.read_text().splitlines()) for path in PACKAGE}
    assert {name: length for name, length in lengths.items() if length > 280} == {}
