"""The crash table of docs/guarantees.md: every step of a new generation, and of pruning."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from crashes import (
    arguments_of,
    config_for,
    copy_folder,
    find_steps,
    make_folders,
    read_table,
    run_until,
)
from services import S3Server

from mnist_ocr.labelling.config import PruneConfig, RetryConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.prune import prune
from mnist_ocr.labelling.retry import retry
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import open_store

UPDATE_STEPS = [step for step, _ in find_steps("`label --update`")]
OTHER_STEPS = find_steps("`retry`|`label --relabel`")
PRUNE_STEPS = [step for step, _ in find_steps("`prune`")]

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def folders(
    rclone_server: S3Server, tmp_path_factory: pytest.TempPathFactory, digit_images: np.ndarray
) -> dict[str, str]:
    """A place of its own on a disk, and one on S3, each with `scans/`."""
    return make_folders(tmp_path_factory.mktemp("generations"), rclone_server, digit_images)


@pytest.fixture(scope="module")
def grown(folders: dict[str, str], model_uri: str) -> dict[str, tuple[pa.Table, pa.Table]]:
    """`first`, an output whose input has grown since, and `updated`, after that; rows of both."""
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
        tables[kind] = read_table(f"{folder}/first"), read_table(f"{folder}/updated")
        assert [*map(len, tables[kind])] == [256, 256 + 60]
    return tables


@pytest.mark.parametrize("kind", ["disk", "s3"])
@pytest.mark.parametrize("step", UPDATE_STEPS)
def test_crash_of_an_update_changes_nothing(
    step: str,
    kind: str,
    folders: dict[str, str],
    grown: dict[str, tuple[pa.Table, pa.Table]],
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
    old, new = grown[kind]
    has_switched = step == "generation-switched"
    assert read_table(config.output_uri).equals(new if has_switched else old)
    is_finished = has_switched or step == "success-written"
    assert label(config).num_images_this_run == (0 if is_finished else 60 + 1)
    assert read_table(config.output_uri).equals(new)
    assert verify(VerifyConfig(config.output_uri)).problems == []


@pytest.fixture(scope="module")
def mended(folders: dict[str, str], model_uri: str) -> tuple[pa.Table, pa.Table]:
    """`cut`, an output some of whose objects were cut and no more are; its rows, and theirs now."""
    folder, config = folders["disk"], config_for(folders["disk"], "cut", model_uri, scans="mended")
    copy_folder(f"{folder}/scans", config.input_uri)
    label(config)
    scans = open_store(config.input_uri)
    for i in range(0, 256, 50):
        scans.write(f"{i:03d}.png", scans.read("001.png"))
    label(replace(config, output_uri=f"{folder}/anew"))
    return read_table(config.output_uri), read_table(f"{folder}/anew")


@pytest.mark.parametrize(("step", "command"), OTHER_STEPS)
def test_crash_of_another_generation_changes_nothing(
    step: str,
    command: str,
    folders: dict[str, str],
    mended: tuple[pa.Table, pa.Table],
    model_uri: str,
    tmp_path: Path,
) -> None:
    """The same of some rows that are redone, and of all labelled anew with other settings."""
    config = config_for(folders["disk"], f"{command.strip('`')}-{step}", model_uri, scans="mended")
    copy_folder(f"{folders['disk']}/cut", config.output_uri)
    relabelling = replace(config, relabel=True, max_risk=0.5)
    retrying = RetryConfig(config.output_uri, "truncated", model_uri, num_gpus_per_actor=0.0)
    arguments = [*arguments_of(config), "--relabel", "--max-risk", "0.5"]
    if command == "`retry`":
        arguments = ["retry", config.output_uri, "--status", "truncated", "--model-uri", model_uri]
        arguments += ["--num-gpus-per-actor", "0"]
    log = tmp_path / "log"
    exit_code = run_until(step, 1, log, *arguments)
    assert exit_code == -signal.SIGKILL, log.read_text()
    old, new = mended
    has_switched = step == "generation-switched"
    assert read_table(config.output_uri).equals(new if has_switched else old)
    summary = retry(retrying) if command == "`retry`" else label(relabelling)
    assert summary.num_images_this_run == (0 if has_switched else 6)
    assert read_table(config.output_uri).equals(new)
    assert verify(VerifyConfig(config.output_uri)).problems == []


@pytest.mark.parametrize("kind", ["disk", "s3"])
@pytest.mark.parametrize("step", PRUNE_STEPS)
def test_crash_of_pruning_keeps_the_current_rows(
    step: str,
    kind: str,
    folders: dict[str, str],
    grown: dict[str, tuple[pa.Table, pa.Table]],
    tmp_path: Path,
) -> None:
    """The next one deletes what is left of the others."""
    output_uri = f"{folders[kind]}/prune-{step}"
    copy_folder(f"{folders[kind]}/updated", output_uri)
    log = tmp_path / "log"
    exit_code = run_until(step, 1, log, "prune", output_uri)
    assert exit_code == -signal.SIGKILL, log.read_text()
    assert read_table(output_uri).equals(grown[kind][1])
    assert prune(PruneConfig(output_uri)).generation_uris == [output_uri]
    assert read_table(output_uri).equals(grown[kind][1])
    assert verify(VerifyConfig(output_uri)).problems == []
    names = [info.name for page in open_store(output_uri).list() for info in page]
    assert {name.partition("/")[0] for name in names} == {"_CURRENT", "_generations"}
