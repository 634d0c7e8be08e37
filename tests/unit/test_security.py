"""What SECURITY.md promises of the code as a whole, of models and of files."""

import ast
import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mnist_ocr import session
from mnist_ocr.digits.model import INFO, ONNX, PRETRAINED, WEIGHTS, load_model
from mnist_ocr.errors import UsageError
from mnist_ocr.storage import open_store

ROOT = Path(__file__).parents[2]
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for folder in ("mnist_ocr", "jobs")
    for path in (ROOT / folder).rglob("*.py")
}

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
"""They run what they read."""

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load",
    "yaml.unsafe_load", "tempfile.mktemp", "tarfile.open", "shutil.unpack_archive",
}  # fmt: skip
"""Shells, code out of data, names that another can take first, archives unpacked to a disk."""

FORBIDDEN_NAMES = {"extractall", "allow_pickle", "shell", "trust_remote_code"}
"""Of methods and of arguments."""


def find_dangers(tree: ast.AST) -> Iterator[str]:
    """What is forbidden, anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from names & FORBIDDEN_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            yield from {str(node.module).partition(".")[0]} & FORBIDDEN_IMPORTS
            yield from {f"{node.module}.{alias.name}" for alias in node.names} & FORBIDDEN_CALLS
        elif isinstance(node, ast.Call):
            yield from {ast.unparse(node.func)} & FORBIDDEN_CALLS
            yield from {keyword.arg or "" for keyword in node.keywords} & FORBIDDEN_NAMES
        elif isinstance(node, ast.Attribute):
            yield from {node.attr} & FORBIDDEN_NAMES


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(name: str) -> None:
    """Nor extracted to a disk, nor written under a name that another could take first."""
    assert list(find_dangers(SOURCES[name])) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(file, weights_only=True)",
        "np.load(file, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "eval(text)",
        "from tempfile import mktemp",
        "archive.extractall(folder)",
    ],
)
def test_the_search_would_notice(code: str) -> None:
    """Each of these is what the test above looks for."""
    assert list(find_dangers(ast.parse(code)))


def test_reading_digits_identifies_no_machine_and_tells_nobody(tmp_path: Path) -> None:
    """ONNX Runtime would put the machine's id into the user's home, and reports into a database."""
    code = "from mnist_ocr.digits.classifier import DigitClassifier; DigitClassifier.load()"
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.rglob("*")) == []


def test_ray_is_told_no_secrets() -> None:
    """What a runtime environment holds is shown to everybody who may ask Ray: two settings."""
    keywords = [
        ast.unparse(keyword)
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if "runtime_env" in str(keyword.arg)
    ]
    assert sorted(keywords) == [
        "runtime_env={'env_vars': variables} if variables else None",  # where a test crashes it
        "worker_runtime_env={'env_vars': WORKER_ENVIRONMENT}",
    ]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    for name in (WEIGHTS, ONNX, INFO):
        (tmp_path / name).write_bytes((PRETRAINED / name).read_bytes())
    return tmp_path


def test_the_bytes_that_are_checked_are_the_bytes_that_are_used(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is read once: one that is swapped afterwards changes nothing."""
    store_type = type(open_store(str(model_folder)))
    names: list[str] = []
    read = store_type.read

    def read_and_swap(self: object, name: str, *arguments: object, **options: object) -> bytes:
        names.append(name)
        content = read(self, name, *arguments, **options)
        (model_folder / name).write_bytes(b"swapped")
        return content

    monkeypatch.setattr(store_type, "read", read_and_swap)
    model = load_model(str(model_folder))
    assert sorted(names) == sorted([INFO, WEIGHTS, ONNX])
    assert model.onnx == (PRETRAINED / ONNX).read_bytes()
    assert model.weights == (PRETRAINED / WEIGHTS).read_bytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=30)
@given(field=st.sampled_from(sorted(json.loads((PRETRAINED / INFO).read_text()))), new=json_values)
def test_any_description_is_a_model_or_a_sentence(
    field: str, new: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in a field of model.json."""
    folder = tmp_path_factory.mktemp("model")
    for name in (WEIGHTS, ONNX):
        (folder / name).symlink_to(PRETRAINED / name)
    fields = json.loads((PRETRAINED / INFO).read_text())
    (folder / INFO).write_text(json.dumps(fields | {field: new}))
    with contextlib.suppress(UsageError):
        load_model(str(folder))


def test_nested_or_endless_description_is_refused(model_folder: Path) -> None:
    """Neither the stack nor the memory runs out."""
    (model_folder / INFO).write_text("[" * 100_000)
    with pytest.raises(UsageError, match="not a model description"):
        load_model(str(model_folder))
    with (model_folder / INFO).open("wb") as file:
        file.truncate(2 * 1024**3)
    with pytest.raises(UsageError, match="at most 1,073,741,824 are read"):
        load_model(str(model_folder))


@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "/etc/hostname"])
def test_onnx_reads_no_other_file(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose weights are said to lie outside is not loaded."""
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(bytes(16))
    weights = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.append(onnx.StringStringEntryProto(key="location", value=location))
    ports = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "graph", ports[:1], ports[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match=r"(?i)external data|model_path"):
        onnxruntime.InferenceSession(model.SerializeToString(), options)


def test_temporary_file_is_never_another_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where its name was guessed and linked elsewhere."""
    monkeypatch.setattr("mnist_ocr.local_store.token_hex", lambda _: "guessed")
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.a.bin.guessed.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="File exists"):
        open_store(str(tmp_path / "out")).write("a.bin", b"x")
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("has_folder", [False, True])
def test_rays_token_is_for_its_owner_alone(
    has_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it may run code on the cluster; one that lies elsewhere is not Ray's to write."""
    token = tmp_path / ".ray/auth_token"
    shared = tmp_path / "shared-token"
    shared.write_text("secret")
    shared.chmod(0o640)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(shared))
    if has_folder:
        token.parent.mkdir(0o755)

    def start(*_: object, **__: object) -> None:
        assert has_folder or stat.S_IMODE(token.parent.stat().st_mode) == 0o700
        token.parent.mkdir(exist_ok=True)
        token.write_text("secret")
        token.chmod(0o644)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    context = SimpleNamespace(get_job_id=lambda: "01000000")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    session.connect_ray()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(shared.stat().st_mode) == 0o640


def test_seeded_noise_is_no_model(tmp_path: Path) -> None:
    """Weights and networks that are not what model.json states never reach a parser."""
    noise = np.random.default_rng(0).bytes(1000)
    for name in (WEIGHTS, ONNX):
        for each in (WEIGHTS, ONNX, INFO):
            (tmp_path / each).write_bytes((PRETRAINED / each).read_bytes())
        (tmp_path / name).write_bytes(noise)
        with pytest.raises(UsageError, match="does not have the sha256"):
            load_model(str(tmp_path))
