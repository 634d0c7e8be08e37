"""The crash table of docs/guarantees.md: every step, on a disk and on S3."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from services import S3Server

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import open_store

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs/guarantees.md").read_text().partition("## The crash table")[2]
STEPS = re.findall(r"^\| `([\w-]+)` \| ([\w ]+) \|", TABLE, re.MULTILINE)
SHARD_SIZE = 40

pytestmark = pytest.mark.usefixtures("ray_session")


def test_table_names_every_step() -> None:
    """No crash point of the source is missing in it, and it names no other."""
    source = "".join(path.read_text() for path in (ROOT / "mnist_ocr").rglob("*.py"))
    assert {step for step, _ in STEPS} == set(re.findall(r'crash_point\("(.*?)"\)', source))


@pytest.fixture(scope="module")
def folders(
    rclone_server: S3Server, tmp_path_factory: pytest.TempPathFactory, digit_images: np.ndarray
) -> dict[str, str]:
    """A place of its own on a disk, and one on S3, each with `scans/`."""
    places = {"disk": str(tmp_path_factory.mktemp("crashes")), "s3": "s3://crashes"}
    roots = {"disk": Path(places["disk"]), "s3": rclone_server.make_bucket("crashes")}
    for root in roots.values():
        (root / "scans").mkdir()
        for i, image in enumerate(digit_images):
            data = cv2.imencode(".png", image)[1].tobytes()
            (root / f"scans/{i:03d}.png").write_bytes(data if i % 50 else data[:60])
    return places


def read_table(output_uri: str) -> pa.Table:
    """All rows, by id."""
    store = open_store(output_uri)
    names = [info.name for page in store.list("part-") for info in page]
    tables = [pq.read_table(pa.BufferReader(store.read(name))) for name in names]
    return pa.concat_tables(tables, promote_options="permissive").sort_by("id")


@pytest.fixture(scope="module")
def undisturbed(folders: dict[str, str], model_uri: str) -> dict[str, pa.Table]:
    """The table of a run that nothing happens to."""
    tables = {}
    for kind, folder in folders.items():
        label(config_for(folder, "undisturbed", model_uri))
        tables[kind] = read_table(f"{folder}/undisturbed")
    return tables


def config_for(folder: str, name: str, model_uri: str) -> LabelConfig:
    return LabelConfig(
        f"{folder}/scans",
        f"{folder}/{name}",
        model_uri,
        num_gpus_per_actor=0.0,
        shard_size=SHARD_SIZE,
    )


@pytest.mark.parametrize("kind", ["disk", "s3"])
@pytest.mark.parametrize(("step", "who"), STEPS, ids=[step for step, _ in STEPS])
def test_crash_changes_nothing(
    step: str,
    who: str,
    kind: str,
    folders: dict[str, str],
    undisturbed: dict[str, pa.Table],
    model_uri: str,
) -> None:
    """After SIGKILL at the step the same command ends with the table of an undisturbed run."""
    if kind == "s3" and step == "temporary-written":
        pytest.skip("a PUT has no steps")
    config = config_for(folders[kind], step, model_uri)
    command = [sys.executable, "-m", "mnist_ocr", "label", config.input_uri, config.output_uri]
    command += ["--model-uri", model_uri, "--num-gpus-per-actor", "0"]
    command += ["--shard-size", str(SHARD_SIZE)]
    # the second time where there is one: in the middle
    number = 1 if who == "the command" or step.startswith("listing") else 2
    died = subprocess.run(
        command,
        env=os.environ | {"MNIST_OCR_CRASH_AT": f"{step}:{number}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if who == "the command":
        assert died.returncode == -signal.SIGKILL, died.stderr
    label(config)
    assert read_table(config.output_uri).equals(undisturbed[kind])
    assert verify(VerifyConfig(config.output_uri)).problems == []


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_second_command_is_told_who_holds_the_output(
    kind: str, folders: dict[str, str], model_uri: str
) -> None:
    """It stops before it writes anything but its claim, which it takes back."""
    config = config_for(folders[kind], "held", model_uri)
    output = open_store(config.output_uri)
    with Lease(output):
        with pytest.raises(
            UsageError, match=rf"held is being written by process {os.getpid()} on .*, since 20.."
        ):
            label(config)
        assert [info.name[:7] for page in output.list() for info in page] == ["_lease/"]
    assert not [info for page in output.list() for info in page]
