"""The crash table of docs/guarantees.md: every step of a first run, on a disk and on S3."""

import os
import re
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from crashes import (
    ROOT,
    arguments_of,
    config_for,
    find_steps,
    make_folders,
    read_parts,
    read_table,
    run_until,
)
from services import S3Server

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.manifest_shard import read_shard
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import Store, open_store

CRASHES = [
    (step, who, kind)
    for step, who in find_steps(r"[\w ]+")
    for kind in (["disk"] if step == "temporary-written" else ["disk", "s3"])  # a PUT has no steps
]

pytestmark = pytest.mark.usefixtures("ray_session")


def test_table_names_every_step() -> None:
    """No crash point of the source is missing in it, and it names no other."""
    source = "".join(path.read_text() for path in (ROOT / "mnist_ocr").rglob("*.py"))
    named = {step for step, _ in find_steps("[^|]+")}
    assert named == set(re.findall(r'crash_point\("(.*?)"\)', source))


@pytest.fixture(scope="module")
def folders(
    rclone_server: S3Server, tmp_path_factory: pytest.TempPathFactory, digit_images: np.ndarray
) -> dict[str, str]:
    """A place of its own on a disk, and one on S3, each with `scans/`."""
    return make_folders(tmp_path_factory.mktemp("crashes"), rclone_server, digit_images)


@pytest.fixture(scope="module")
def undisturbed(folders: dict[str, str], model_uri: str) -> dict[str, pa.Table]:
    """The table of a run that nothing happens to."""
    tables = {}
    for kind, folder in folders.items():
        label(config_for(folder, "undisturbed", model_uri))
        tables[kind] = read_table(f"{folder}/undisturbed")
    return tables


def check_left(step: str, output: Store, parts: Collection[pa.Table], whole: pa.Table) -> None:
    """What the table says that a reader sees after the step: whole shards, if any."""
    names = {info.name for page in output.list() for info in page}
    shards = [read_shard(output, int(name[10:18])) for name in names if name.endswith(".arrow")]
    ids = [shard.table["id"] for shard in shards]
    for part in parts:
        assert any(part["id"].equals(of_shard) for of_shard in ids), "not a whole shard"
        rows = whole.filter(pc.is_in(whole["id"], part["id"].combine_chunks()))
        assert part.to_pylist() == rows.to_pylist()  # whose dictionaries may differ
    if step in {"claimed", "job-written"}:
        written = {name for name in names if not name.startswith("_lease/")}
        assert written == ({"_job.json"} if step == "job-written" else set())
    if step in {"all-labelled", "success-written"}:
        assert sum(map(len, parts)) == len(whole)
        assert ("_SUCCESS" in names) == (step == "success-written")


def count_deaths(step: str, number: int) -> int:
    """Of workers, by what they last wrote into Ray's logs."""
    num_deaths = 0
    for log in Path(os.environ["TEST_RAY_LOGS"]).rglob("worker-*.err"):
        with suppress(FileNotFoundError):  # Ray moves some to a folder for old ones
            num_deaths += f"MNIST_OCR_CRASH_AT={step}:{number}\n" in log.read_text()
    return num_deaths


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
    output = open_store(config.output_uri)
    left = read_parts(output)
    check_left(step, output, left.values(), undisturbed[kind])
    summary = label(config)
    if step != "temporary-written":  # of a command, whose workers may have written on for a while
        assert summary.num_images_this_run == 256 - sum(map(len, left.values()))
    assert left.keys() <= read_parts(output).keys()  # not written again
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
