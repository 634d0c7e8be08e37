"""The crash table of docs/guarantees.md: every step, on a disk and on S3."""

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import start_command
from services import S3Server

from mnist_ocr import labels_uri
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import LabelConfig, PruneConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.prune import prune
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import open_store

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs/guarantees.md").read_text().partition("## The crash table")[2]
STEPS = re.findall(r"^\| `([\w-]+)` \| ([\w ]+) \|", TABLE, re.MULTILINE)
UPDATE_STEPS = re.findall(r"^\| `([\w-]+)` \| `label --update` \|", TABLE, re.MULTILINE)
PRUNE_STEPS = re.findall(r"^\| `([\w-]+)` \| `prune` \|", TABLE, re.MULTILINE)
CRASHES = [
    (step, who, kind)
    for step, who in STEPS
    for kind in (["disk"] if step == "temporary-written" else ["disk", "s3"])  # a PUT has no steps
]
SHARD_SIZE = 40

pytestmark = pytest.mark.usefixtures("ray_session")


def test_table_names_every_step() -> None:
    """No crash point of the source is missing in it, and it names no other."""
    source = "".join(path.read_text() for path in (ROOT / "mnist_ocr").rglob("*.py"))
    named = {step for step, _ in STEPS} | {*UPDATE_STEPS, *PRUNE_STEPS}
    assert named == set(re.findall(r'crash_point\("(.*?)"\)', source))


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
    """The current rows, by id."""
    store = open_store(labels_uri(output_uri))
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


def config_for(
    folder: str, name: str, model_uri: str, *, scans: str = "scans", update: bool = False
) -> LabelConfig:
    return LabelConfig(
        f"{folder}/{scans}",
        f"{folder}/{name}",
        model_uri,
        num_gpus_per_actor=0.0,
        shard_size=SHARD_SIZE,
        update=update,
    )


def run_until(step: str, number: int, log: Path, *arguments: str) -> int:
    """The exit code of a command that dies when it gets to a step."""
    process = start_command([*arguments], log, {"MNIST_OCR_CRASH_AT": f"{step}:{number}"})
    process.join()
    return process.exitcode


def count_deaths(step: str, number: int) -> int:
    """Of workers, by what they last wrote into Ray's logs."""
    num_deaths = 0
    for log in Path(os.environ["TEST_RAY_LOGS"]).rglob("worker-*.err"):
        with suppress(FileNotFoundError):  # Ray moves some to a folder for old ones
            num_deaths += f"MNIST_OCR_CRASH_AT={step}:{number}\n" in log.read_text()
    return num_deaths


def arguments_of(config: LabelConfig) -> list[str]:
    """The command line."""
    arguments = ["label", config.input_uri, config.output_uri, "--model-uri", str(config.model_uri)]
    arguments += ["--num-gpus-per-actor", "0", "--shard-size", str(SHARD_SIZE)]
    return arguments + ["--update"] * config.update


@pytest.mark.parametrize(("step", "who", "kind"), CRASHES)
def test_crash_changes_nothing(
    step: str,
    who: str,
    kind: str,
    folders: dict[str, str],
    undisturbed: dict[str, pa.Table],
    model_uri: str,
    tmp_path: Path,
) -> None:
    """After SIGKILL at the step the same command ends with the table of an undisturbed run."""
    config = config_for(folders[kind], step, model_uri)
    # where there are several times in the middle; of workers few, since each is started again
    number = 1 if who == "the command" or step.startswith("listing") else 3
    num_before = count_deaths(step, number)
    log = tmp_path / "log"
    exit_code = run_until(step, number, log, *arguments_of(config))
    if who == "the command":
        assert exit_code == -signal.SIGKILL, log.read_text()
    elif step != "temporary-written":  # whoever gets there
        assert count_deaths(step, number) > num_before
    label(config)
    assert read_table(config.output_uri).equals(undisturbed[kind])
    assert verify(VerifyConfig(config.output_uri)).problems == []


def copy_folder(old_uri: str, new_uri: str) -> None:
    """Through the store: the S3 server would not see what is copied behind its back."""
    old, new = open_store(old_uri), open_store(new_uri)
    for name in [info.name for page in old.list() for info in page]:
        new.write(name, old.read(name))


@pytest.fixture(scope="module")
def grown(folders: dict[str, str], model_uri: str) -> dict[str, pa.Table]:
    """`first`, an output whose input has grown since, and `updated`, after that; its rows."""
    tables = {}
    for kind, folder in folders.items():
        copy_folder(f"{folder}/scans", f"{folder}/grown")
        label(config_for(folder, "first", model_uri, scans="grown"))
        scans = open_store(f"{folder}/grown")
        for i in range(60):
            scans.write(f"{i:03d}-again.png", scans.read(f"{i:03d}.png"))
        scans.write("099.png", scans.read("101.png"))
        copy_folder(f"{folder}/first", f"{folder}/updated")
        label(config_for(folder, "updated", model_uri, scans="grown", update=True))
        tables[kind] = read_table(f"{folder}/updated")
        assert len(tables[kind]) == 256 + 60
    return tables


@pytest.mark.parametrize("kind", ["disk", "s3"])
@pytest.mark.parametrize("step", UPDATE_STEPS)
def test_crash_of_an_update_changes_nothing(
    step: str,
    kind: str,
    folders: dict[str, str],
    grown: dict[str, pa.Table],
    model_uri: str,
    tmp_path: Path,
) -> None:
    """The same command ends with the table of an undisturbed update; until then the old one is."""
    name = f"update-{step}"
    copy_folder(f"{folders[kind]}/first", f"{folders[kind]}/{name}")
    config = config_for(folders[kind], name, model_uri, scans="grown", update=True)
    log, number = tmp_path / "log", 2 if step == "manifest-shard-rewritten" else 1
    exit_code = run_until(step, number, log, *arguments_of(config))
    assert exit_code == -signal.SIGKILL, log.read_text()
    has_switched = step == "generation-switched"
    assert len(read_table(config.output_uri)) == (256 + 60 if has_switched else 256)
    label(config)
    assert read_table(config.output_uri).equals(grown[kind])
    assert verify(VerifyConfig(config.output_uri)).problems == []


@pytest.mark.parametrize("kind", ["disk", "s3"])
@pytest.mark.parametrize("step", PRUNE_STEPS)
def test_crash_of_pruning_keeps_the_current_rows(
    step: str, kind: str, folders: dict[str, str], grown: dict[str, pa.Table], tmp_path: Path
) -> None:
    """The next one deletes what is left of the others."""
    output_uri = f"{folders[kind]}/prune-{step}"
    copy_folder(f"{folders[kind]}/updated", output_uri)
    log = tmp_path / "log"
    exit_code = run_until(step, 1, log, "prune", output_uri)
    assert exit_code == -signal.SIGKILL, log.read_text()
    assert prune(PruneConfig(output_uri)).generation_uris == [output_uri]
    assert read_table(output_uri).equals(grown[kind])
    assert verify(VerifyConfig(output_uri)).problems == []
    names = [info.name for page in open_store(output_uri).list() for info in page]
    assert {name.partition("/")[0] for name in names} == {"_CURRENT", "_generations"}


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
