"""The command: help, errors in one sentence, exit codes, nothing written on wrong use."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mnist_ocr import cli
from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.pack import PackSummary
from mnist_ocr.labelling.summary import JobSummary, LabelSummary
from mnist_ocr.labelling.verification import Verification


def run(*argv: str) -> int:
    """Run the command in this process; Ray cannot start in a unit test."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    return int(caught.value.code or 0)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/1.png").write_bytes(b"x")
    return tmp_path / "scans"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from test_classifier import save

    save(tmp_path / "model")
    return tmp_path / "model"


def test_help_is_instant_and_imports_nothing_heavy(repository: Path) -> None:
    """`--help` of every command parses only: neither torch nor Ray nor the wings are loaded."""
    code = (
        "import sys; from mnist_ocr import cli\n"
        "try: cli.main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'sklearn', 'cv2', 'onnxruntime', 'botocore'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    for command in cli.COMMANDS:
        done = subprocess.run(
            [sys.executable, "-c", code, command],
            capture_output=True,
            text=True,
            check=True,
            cwd=repository,
        )
        assert f"usage: mnist-ocr {command}" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


def test_wrong_use_of_label_is_one_sentence_and_exit_2(
    scans: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each mistake names the value and the remedy; nothing is written."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine.txt").touch()
    with_model = ["--model-uri", str(model)]
    out = tmp_path / "out"
    mistakes = [
        ([str(tmp_path / "none"), str(out), *with_model], "none does not exist. Pass an existing"),
        ([str(scans / "1.png"), str(out), *with_model], "1.png is a file. Pass an existing"),
        ([str(tmp_path / "hollow"), str(out), *with_model], "No objects under"),
        ([str(scans), str(out), "--model-uri", str(scans)], "is not a model directory"),
        ([str(scans), str(scans / "out"), *with_model], "lie one in the other"),
        ([str(scans), str(tmp_path / "used"), *with_model], "it holds mine.txt and no _job.json"),
        (["s3://scans/2026", str(out), *with_model], "No AWS credentials for s3://scans/2026"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for argv, message in mistakes:
        assert run("label", *argv) == 2
        output = capsys.readouterr()
        [line] = [line for line in output.err.splitlines() if line]
        assert line.startswith("error: ")
        assert message in line
        assert output.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_use_of_plan_is_said_as_that_of_label(
    scans: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is timed."""
    (tmp_path / "hollow").mkdir()
    mistakes = [
        ([str(tmp_path / "none")], "none does not exist. Pass an existing"),
        ([str(tmp_path / "hollow")], "No objects under"),
        ([str(scans), "--extensions", ".tif"], "No objects with the extension .tif under"),
        ([str(scans), "--instance-type", "c9.huge"], "instance_type is 'c9.huge': give one of"),
        ([str(scans), "--num-instances", "0"], "num_instances is 0: give 1 or more."),
    ]
    for argv, message in mistakes:
        assert run("plan", *argv, "--model-uri", str(model)) == 2
        output = capsys.readouterr()
        assert message in " ".join(output.err.replace("│", " ").split())
        assert output.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model-url", "m"], "--model-url"),
        (["--max-risk", "1"], "max_risk is 1.0: give one between 0 and 1."),
        (["--model-uri", "m", "--shard-size", "0"], "shard_size is 0: give 1 to 65536."),
        (["--model-uri", "m", "--shard-size", "many"], "many"),
    ],
)
def test_wrong_flag_is_named_with_the_way_to_the_help_and_exit_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is loaded, and no traceback shown."""
    assert run("label", "in", "out", *options) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error
    assert "--help" in error
    assert "Traceback" not in error


def test_unreachable_endpoint_is_exit_1(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network's fault, not the user's; after few retries."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    out = tmp_path / "out"
    assert run("label", "s3://scans/2026", str(out), "--model-uri", str(model)) == 1
    assert sum(waits) < 10
    assert "http://127.0.0.1:9" in capsys.readouterr().err
    assert not out.exists()


def test_unknown_error_shows_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is not dressed up as the user's mistake."""

    def fail(config: object) -> int:
        raise ValueError("operands could not be broadcast")

    config_class, _ = cli.COMMANDS["verify"]
    monkeypatch.setitem(cli.COMMANDS, "verify", (config_class, fail))
    assert run("verify", "out") == 1
    assert "Traceback" in capsys.readouterr().err


SUMMARY = LabelSummary(
    output_uri="/out",
    job_id="1",
    model_sha256="ab",
    job_sha256="",
    versions={},
    num_images=100,
    num_shards=1,
    num_accepted=80,
    statuses={"ok": 88, "not_a_digit": 2, "blank": 5, "empty": 5},
    requests_per_image=1.0,
    num_throttled=0,
    num_bytes=25_000,
    latency_p50_s=None,
    latency_p99_s=None,
    num_images_this_run=100,
    images_per_s=1.0,
    wall_s=1.0,
    times=RunTimes(seconds={"predict": 1.5}, wall_s=1.0, num_cpus=2, num_gpus=0, num_images=100),
    limit="predict",
)


@pytest.mark.parametrize(("rate", "code"), [(None, 0), ("0.05", 0), ("0.049", 3)])
def test_too_many_errors_are_exit_3(
    rate: str | None,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blank pages and non-digits are no errors; the last line of stdout is JSON in any case."""
    monkeypatch.setattr("mnist_ocr.labelling.label.label", lambda config, on_progress: SUMMARY)
    options = [] if rate is None else ["--max-error-rate", rate]
    assert run("label", "in", "out", "--model-uri", "m", *options) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "100 rows (5 blank, 5 empty, 2 not_a_digit, 88 ok) in /out"
    assert lines[1] == "80 accepted at a risk of 0.001"
    assert json.loads(lines[-1])["statuses"] == SUMMARY.statuses


SHARED = {field.name: getattr(SUMMARY, field.name) for field in fields(JobSummary)}
PACKED = PackSummary(
    **{**SHARED, "num_images": 1005, "statuses": {"ok": 1000, "missing": 2, "forbidden": 3}},
    num_files=2,
    packed_bytes=1_540_096,
)


@pytest.mark.parametrize(
    ("summary", "code"), [(PACKED, 3), (replace(PACKED, num_images=7, statuses={"ok": 7}), 0)]
)
def test_object_that_is_not_packed_is_exit_3(
    summary: PackSummary,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And said, so that nobody deletes the originals."""
    monkeypatch.setattr("mnist_ocr.labelling.pack.pack", lambda config, on_progress: summary)
    assert run("pack", "in", "out") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(" images in 2 files of 1.5 MB in all, in /out/shards")
    said = "5 objects not packed (3 forbidden, 2 missing): see /out/errors"
    assert (said in lines) == bool(code)
    assert json.loads(lines[-1])["packed_bytes"] == 1_540_096


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "zip"], "zip"),
        (["--num-actors", "0"], "num_actors is 0: give 1 or more."),
        (["--shard-size", "100000"], "shard_size is 100000: give 1 to 65536."),
    ],
)
def test_wrong_flag_of_pack_is_named(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is loaded."""
    assert run("pack", "in", "out", *options) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["part-7 is missing."], 1)])
def test_verification_with_problems_is_exit_1(
    problems: list[str],
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Problems are printed before the verdict."""
    found = Verification("/out", 100, 1, {"ok": 100}, len(problems), problems)
    monkeypatch.setattr("mnist_ocr.labelling.verification.verify", lambda config: found)
    assert run("verify", "out") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-2] == problems
    assert json.loads(lines[-1])["num_problems"] == len(problems)
