"""`label` on a shared Ray: rows, resuming, both pipelines, and what readers see."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from services import read_worker_lines

from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.predictions import SCHEMA
from mnist_ocr.labelling.verification import verify
from mnist_ocr.log_lines import VARIABLE

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def scans(tmp_path: Path, digit_images: np.ndarray) -> Path:
    """A folder of 256 PNG files in four sub-folders."""
    folder = tmp_path / "scans"
    for i, image in enumerate(digit_images):
        path = folder / f"{i % 4}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


def config_for(scans: Path, output: Path, model_uri: str, **options: object) -> LabelConfig:
    options = {"num_gpus_per_actor": 0.0, "shard_size": 64, **options}
    return LabelConfig(str(scans), str(output), model_uri, **options)


def read_rows(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output).sort_values("id", ignore_index=True)


def test_every_file_has_one_row_with_the_classifiers_prediction(
    scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """The Parquet holds what `DigitClassifier` says of each file, in the order of the paths."""
    summary = label(config_for(scans, tmp_path / "out", model_uri))
    rows = read_rows(tmp_path / "out")
    paths = sorted(str(path) for path in scans.rglob("*.png"))
    assert rows["path"].tolist() == paths
    assert rows["id"].tolist() == list(range(256))
    predictions = DigitClassifier.load(model_uri).predict(paths)
    assert rows["digit"].tolist() == predictions.digit.tolist()
    np.testing.assert_allclose(rows["confidence"], predictions.confidence, atol=1e-5)
    np.testing.assert_allclose(
        np.stack(rows["probabilities"]), predictions.probabilities, atol=1e-5
    )
    assert rows["accepted"].tolist() == (rows["confidence"] >= np.float32(0.15)).tolist()
    assert 0 < summary.num_accepted == rows["accepted"].sum() < 256
    assert (summary.num_images, summary.num_shards) == (256, 4)
    assert summary.requests_per_image == 1
    assert verify(VerifyConfig(str(tmp_path / "out"))).problems == []


def test_bad_files_are_rows(scans: Path, tmp_path: Path, model_uri: str) -> None:
    """Files that hold no readable image get a status and a sentence; the others are labelled."""
    good = (scans / "0/000.png").read_bytes()
    bad = {
        "empty.png": b"",
        "text.png": b"not an image at all",
        "half.png": good[: len(good) // 2],
        "blank.png": cv2.imencode(".png", np.full((40, 30), 230, np.uint8))[1].tobytes(),
        "page.html": b"<html>403</html>",
        ".DS_Store": b"\0\0\0\1Bud1",
    }
    for name, content in bad.items():
        (scans / name).write_bytes(content)
    (scans / "gone.png").symlink_to(scans / "nowhere.png")
    summary = label(config_for(scans, tmp_path / "out", model_uri))
    rows = read_rows(tmp_path / "out")
    statuses = {Path(r.path).name: r.status for r in rows.itertuples() if r.status != "ok"}
    assert statuses == {
        "empty.png": "empty",
        "text.png": "not_an_image",
        "half.png": "truncated",
        "blank.png": "blank",
        "page.html": "not_an_image",
        ".DS_Store": "not_an_image",
        "gone.png": "missing",
    }
    unread = rows[rows["status"] != "ok"]
    assert unread[["digit", "confidence", "probabilities"]].isna().all(axis=None)
    assert not unread["accepted"].any()
    assert unread["error"].str.endswith(".").all()
    assert rows[rows["status"] == "ok"]["error"].isna().all()
    assert summary.statuses["ok"] == 256
    assert summary.error_rate == pytest.approx(6 / 263)


def test_gpu_pipeline_writes_the_same_rows(
    scans: Path, tmp_path: Path, model_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading, predicting and writing apart, with a GPU's share per actor, changes no label."""
    monkeypatch.setenv(VARIABLE, "json")
    (scans / "empty.png").write_bytes(b"")
    for i in range(9):  # whose raw view is another than the canonical one
        page = np.full((60, 50), 220, np.uint8)
        page[10:50, 10 + 3 * i : 14 + 3 * i] = 40 + 5 * i
        page[0, ::2] = 90
        (scans / f"page-{i}.png").write_bytes(cv2.imencode(".png", page)[1].tobytes())
    label(config_for(scans, tmp_path / "fused", model_uri))
    summary = label(
        config_for(scans, tmp_path / "staged", model_uri, num_gpus_per_actor=0.5, num_actors=1)
    )
    assert summary.requests_per_image == 265 / 266  # the empty file takes none
    fused, staged = read_rows(tmp_path / "fused"), read_rows(tmp_path / "staged")
    exact = ["id", "path", "digit", "accepted", "status", "error"]
    pd.testing.assert_frame_equal(fused[exact], staged[exact])
    read = fused["status"] == "ok"
    np.testing.assert_allclose(
        np.stack(fused["probabilities"][read]), np.stack(staged["probabilities"][read]), atol=1e-5
    )
    np.testing.assert_allclose(fused["confidence"][read], staged["confidence"][read], atol=1e-5)
    assert read.sum() == 256 + 9
    assert verify(VerifyConfig(str(tmp_path / "staged"))).problems == []
    lines = [line for line in read_worker_lines(summary.job_id) if line["message"] == "shard done"]
    assert sorted(line["shard"] for line in lines) == list(range(summary.num_shards))
    assert all(line["seconds"]["wait"] > 0 for line in lines)  # of the GPU


def test_readers_take_the_output_folder_as_it_is(
    scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """pandas, pyarrow and DuckDB read the folder by its name and see one row per file."""
    output = tmp_path / "out"
    label(config_for(scans, output, model_uri))
    assert len(pd.read_parquet(output)) == 256
    table = ds.dataset(output).to_table()
    assert table.schema.remove_metadata().equals(SCHEMA)
    assert duckdb.sql(f"select count(*), count(digit) from '{output}/*.parquet'").fetchall() == [
        (256, 256)
    ]
    assert duckdb.sql(f"select count(*) from read_parquet('{output}')").fetchall() == [(256,)]


def test_killed_driver_then_the_same_command_gives_the_uninterrupted_table(
    scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """After kill -9 the same command finishes the job, and no finished shard is read again."""
    label(config_for(scans, tmp_path / "whole", model_uri, shard_size=4))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "mnist_ocr", "label", str(scans), str(output)]
    command += ["--model-uri", model_uri, "--num-gpus-per-actor", "0", "--shard-size", "4"]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(list(output.glob("part-*.parquet"))) < 5:
        assert driver.poll() is None, "the driver ended before it could be killed"
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # until Ray has ended the workers of the dead driver
    finished = {path: path.stat() for path in output.glob("part-*.parquet")}
    assert not (output / "_SUCCESS").exists()
    assert 5 <= len(finished) < 64
    for path in finished:  # if read again these would be `missing`
        for name in pd.read_parquet(path)["path"]:
            Path(name).unlink()

    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["num_images"] == 256
    assert summary["num_images_this_run"] == 256 - 4 * len(finished)
    pd.testing.assert_frame_equal(read_rows(output), read_rows(tmp_path / "whole"))
    for path, before in finished.items():
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert verify(VerifyConfig(str(output))).problems == []


def test_finished_job_is_not_done_again(scans: Path, tmp_path: Path, model_uri: str) -> None:
    """The same command on a finished output returns its summary and touches nothing."""
    config = config_for(scans, tmp_path / "out", model_uri)
    first = label(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = label(config)
    assert again.num_images_this_run == 0
    assert (again.job_id, again.statuses) == (first.job_id, first.statuses)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_another_job_may_not_add_to_the_output(scans: Path, tmp_path: Path, model_uri: str) -> None:
    """A run that differs in anything a row depends on is refused, with what differs."""
    label(config_for(scans, tmp_path / "out", model_uri))
    with pytest.raises(UsageError, match=r"max_risk was 0\.001, is 0\.5"):
        label(config_for(scans, tmp_path / "out", model_uri, max_risk=0.5))


def test_extensions_choose_the_objects(scans: Path, tmp_path: Path, model_uri: str) -> None:
    """Only objects with one of the extensions, in any case, are listed."""
    (scans / "0/000.png").rename(scans / "0/000.PNG")
    (scans / "notes.txt").write_text("x")
    summary = label(config_for(scans, tmp_path / "out", model_uri, extensions=(".png",)))
    assert summary.statuses == {"ok": 256}


def test_fault_in_a_worker_is_one_sentence_and_the_job_resumes(
    scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """What a worker cannot write reaches the user as it was said; nothing is lost."""
    output = tmp_path / "out"
    (output / "part-00000002.parquet").mkdir(parents=True)  # so that there can be no such file
    config = config_for(scans, output, model_uri)
    with pytest.raises(ObjectError, match=r"part-00000002\.parquet is no regular file\.$"):
        label(config)
    (output / "part-00000002.parquet").rmdir()
    assert label(config).statuses == {"ok": 256}
    assert verify(VerifyConfig(str(output))).problems == []


def test_fault_in_the_listing_is_one_sentence(scans: Path, tmp_path: Path, model_uri: str) -> None:
    """The listing runs in a task of its own; its errors arrive as errors of the command."""
    (tmp_path / "out/_manifest/complete.json").mkdir(parents=True)
    config = config_for(scans, tmp_path / "out", model_uri)
    with pytest.raises((UsageError, ObjectError), match=r"complete\.json is no regular file\.$"):
        label(config)


def test_input_that_is_gone_is_not_a_million_missing_rows(
    scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """A disk that is not mounted when a job resumes stops it; with the disk back it goes on."""
    config = config_for(scans, tmp_path / "out", model_uri)
    label(config)
    (tmp_path / "out/_SUCCESS").unlink()
    (tmp_path / "out/part-00000003.parquet").unlink()
    scans.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="does not exist"):
        label(config)
    (tmp_path / "elsewhere").rename(scans)
    assert label(config).statuses == {"ok": 256}
