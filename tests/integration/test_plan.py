"""`plan` of a folder and of a bucket on a real S3 server; no Ray is started for it."""

import json
import os
import threading
from itertools import count, islice
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import ray
from archives import encode_png, pack_tar
from services import S3Server

from mnist_ocr import cli
from mnist_ocr.digits.model import load_model
from mnist_ocr.errors import JobFailedError, UsageError
from mnist_ocr.labelling import measuring
from mnist_ocr.labelling.census import Kind
from mnist_ocr.labelling.config import PlanConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.measuring import measure_kinds
from mnist_ocr.labelling.plan import Plan, plan
from mnist_ocr.labelling.plan_table import format_plan
from mnist_ocr.storage import ObjectInfo, Store, open_store


@pytest.fixture(scope="module")
def scans(
    rclone_server: S3Server, digit_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """90 PNGs in three folders, 10 pages of HTML, 500 PNGs in a tar; a bucket of the same."""
    root = tmp_path_factory.mktemp("plan") / "scans"
    contents = [encode_png(image) for image in digit_images]
    for i in range(100):
        path = root / f"{i % 3}/{i}.{'png' if i % 10 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[i] if i % 10 else b"<html>not found</html>")
    (root / "0/rest.tar").write_bytes(pack_tar({f"{i}.png": contents[i % 256] for i in range(500)}))
    with pytest.MonkeyPatch.context() as patch:
        bucket = create_bucket(rclone_server, "plan-bucket", patch)
        for path in filter(Path.is_file, root.rglob("*")):
            bucket.write(str(path.relative_to(root)), path.read_bytes())
    return root


def create_bucket(server: S3Server, name: str, patch: pytest.MonkeyPatch) -> Store:
    """An empty one, which this process may write to while `patch` lasts."""
    for key, value in server.environment.items():
        patch.setenv(key, value)
    server.client().create_bucket(Bucket=name)
    return open_store(f"s3://{name}")


@pytest.fixture(params=["disk", "s3"])
def uri(
    request: pytest.FixtureRequest,
    scans: Path,
    rclone_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The same files in either place; no cluster is named."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    return {"disk": str(scans), "s3": "s3://plan-bucket"}[request.param]


def test_plan_says_what_is_there_and_what_it_takes(
    uri: str, model_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds, formats by their first bytes, requests, seconds of every stage, hours, dollars."""
    monkeypatch.setattr(ray, "init", lambda: pytest.fail("plan started Ray"))
    found = plan(PlanConfig(uri, model_uri, instance_type="g6.xlarge", num_instances=8))
    assert (found.num_objects, found.num_images) == (101, 600)
    assert (found.relative_error, found.num_prefixes) == (0, 3)
    assert found.kinds == {".tar": 500, ".png": 90, ".jpg": 10}
    assert found.formats == pytest.approx({"PNG": 590 / 600, "not_an_image": 10 / 600})
    assert found.num_sampled == 256 + 90 + 10
    assert found.num_gets == 100 + 2
    cost = found.cost
    assert min(cost.fetch, cost.latency, cost.decode, cost.predict, cost.write) > 0
    here, ec2 = found.estimates
    assert (here.machines.name, ec2.machines.name) == ("this machine", "8 x g6.xlarge")
    assert ec2.machines.num_gpus == 8
    assert here.num_hours == max(here.hours.values()) > 0
    assert (here.request_usd is not None) == found.is_on_s3 == uri.startswith("s3")
    assert "PNG 98%, not_an_image 2%" in format_plan(found)


def test_plan_of_one_archive(uri: str, model_uri: str) -> None:
    """Its members are neighbours, so that reading them is one request."""
    found = plan(PlanConfig(f"{uri}/0/rest.tar", model_uri))
    assert (found.num_objects, found.num_images, found.num_gets) == (1, 500, 2)


@pytest.mark.parametrize("names", ["numbers", "mixed"])
def test_large_bucket_is_estimated(
    names: str, moto_server: S3Server, model_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than --max-objects: by descents into the key space, with the error stated."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for module in ("s3", "labelling.key_space", "labelling.inventory"):
        monkeypatch.setattr(f"mnist_ocr.{module}.PAGE_SIZE", 50)
    bucket = create_bucket(moto_server, f"plan-{names}", monkeypatch)
    for i in range(330):
        name = f"{i:05d}" if names == "numbers" else f"{'abc'[i % 3]}{i}"
        bucket.write(f"{name}.png", b"no image")
    found = plan(PlanConfig(bucket.uri, model_uri, max_objects=50))
    assert found.relative_error is not None
    assert found.num_objects == pytest.approx(330, rel=max(2 * found.relative_error, 0.05))
    assert found.kinds == {".png": found.num_objects}
    assert found.size_bytes == pytest.approx(found.num_objects * len(b"no image"), rel=0.01)


def test_bucket_that_cannot_be_listed_from_within_is_not_estimated(
    uri: str, model_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on rclone's server, unless behind an object; a folder is listed to its end."""
    for module in ("key_space", "inventory"):
        monkeypatch.setattr(f"mnist_ocr.labelling.{module}.PAGE_SIZE", 50)
    found = plan(PlanConfig(uri, model_uri, max_objects=50))
    is_on_s3 = uri.startswith("s3")
    assert (found.relative_error, found.num_objects) == ((None, 50) if is_on_s3 else (0, 101))


def test_command_prints_a_table_and_json_and_writes_nothing(
    scans: Path, model_uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line is one object."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(scans.parent)
    before = sorted(scans.parent.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", "scans", "--model-uri", model_uri, "--usd-per-hour", "1000"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["input", str(scans)]
    document = json.loads(lines[-1])
    assert document["num_images"] == 600
    assert document["estimates"][1]["machines"]["usd_per_hour"] == 4000
    assert sorted(scans.parent.rglob("*")) == before


@pytest.mark.parametrize(("num_in_stream", "num_read"), [(0, 40), (80, 80)])
def test_stream_is_timed_from_its_start(
    num_in_stream: int,
    num_read: int,
    scans: Path,
    model_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading its second half is reading all of it."""
    seconds = count()
    monkeypatch.setattr(measuring, "process_time", lambda: float(next(seconds)))
    monkeypatch.setattr(measuring.cv2, "setNumThreads", lambda _: None)
    sample = list(islice(open_source(f"{scans}/0/rest.tar").list(), 80))
    kind = Kind(".tar", 1, 1e6, 500, True, num_in_stream, sample)
    barrier = cast(Barrier, threading.Barrier(1))
    worker = measuring._Worker(str(scans / "0/rest.tar"), (), False, load_model(model_uri), barrier)
    assert worker.measure(kind).cost.fetch == pytest.approx(1 / num_read)


class Deadly:
    """Ends the first process that unpickles it, as a decoder that crashes would."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return die_once, (self.mark,)


def die_once(mark: Path) -> str:
    try:
        mark.mkdir()
    except FileExistsError:
        return "0/1.png"
    os._exit(1)


@pytest.mark.timeout(60)
def test_process_that_dies_ends_the_plan(scans: Path, model_uri: str, tmp_path: Path) -> None:
    """With what may have killed it; the others do not wait for it."""
    info = ObjectInfo(cast(str, Deadly(tmp_path / "died")), 300, "")
    kinds = [Kind(".png", 1, 300, 1, sample=[info])]
    with pytest.raises(JobFailedError, match=r"a sample of \.png died: too little memory"):
        measure_kinds(str(scans), (), load_model(model_uri), kinds)


@pytest.mark.timeout(60)
def test_error_of_one_process_is_told(scans: Path, model_uri: str) -> None:
    """Rather than that the others waited for it."""
    kinds = [Kind(".png", 1, 300, 1, sample=[ObjectInfo("0/1.png", 300, "")])]
    with pytest.raises(UsageError, match="nosuch"):
        measure_kinds("nosuch://bucket", (), load_model(model_uri), kinds)


def test_cluster_that_is_named_is_asked(scans: Path, model_uri: str, ray_session: str) -> None:
    """RAY_ADDRESS names it; this process is connected already."""
    found: Plan = plan(PlanConfig(str(scans), model_uri))
    assert found.estimates[0].machines.name == "this cluster"
    assert (found.estimates[0].machines.num_cpus, found.estimates[0].machines.num_gpus) == (2, 1)
    assert ray_session
