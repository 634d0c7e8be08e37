"""Random schedules of faults: however a job is disturbed, it ends with one right row per object.

`make chaos SEEDS=200 FIRST_SEED=0` runs as many; a seed that fails is run again by itself.
"""

import os
import random
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_proxy import serve_faults
from machines import Clock, Nodes, small_disk
from schedules import EVENTS, Event, Runner, Schedule
from services import S3Server

from mnist_ocr import labels_uri
from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import open_store

FIRST_SEED = int(os.environ.get("CHAOS_FIRST_SEED", "0"))
SEEDS = range(FIRST_SEED, FIRST_SEED + int(os.environ.get("CHAOS_SEEDS", "4")))

NUM_IMAGES, SHARD_SIZE = 600, 32


class Place(NamedTuple):
    """Where inputs and outputs lie."""

    uri: str
    root: Path
    """The same as a folder: a bucket is one, too."""


class Chaos:
    """What all schedules share."""

    def __init__(
        self,
        places: dict[str, Place],
        server: S3Server,
        model_uri: str,
        runner: Runner,
        events: tuple[str, ...],
    ) -> None:
        self.places = places
        self._server = server
        self.model_uri = model_uri
        self.runner = runner
        self.events = events
        """Kinds that can be made on this machine."""
        self._right: dict[str, pd.DataFrame] = {}

    def label_till_done(
        self, schedule: Schedule, source: Place, output: Place, *options: str
    ) -> list[int]:
        """Run the command until it succeeds, disturbed less in the end; all exit codes."""
        proxy = self.runner.proxy
        proxy.disturb(schedule.seed, schedule.faults, schedule.rate)
        arguments = ["label", source.uri, output.uri, "--shard-size", str(SHARD_SIZE), *options]
        exit_codes = []
        for events in schedule.runs:
            exit_codes.append(self._run(arguments, schedule, output, events))
            if exit_codes[-1] == 0:
                break
        else:
            proxy.rate /= 4  # still, but so that it gets on
            exit_codes.append(self._run(arguments, schedule, output, ()))
        proxy.rate = 0
        assert exit_codes[-1] == 0, f"{schedule}: {exit_codes} {self.runner.read_log()}"
        assert verify(VerifyConfig(output.uri)).problems == [], schedule
        return exit_codes

    def retry(self, schedule: Schedule, output: Place) -> None:
        """Label what the store's faults have kept from being read."""
        arguments = ["retry", output.uri, "--status", ",".join(schedule.may_fail)]
        exit_code = self._run(arguments, schedule, output, ())
        assert exit_code == 0, f"{schedule}: {self.runner.read_log()}"
        assert verify(VerifyConfig(output.uri)).problems == [], schedule

    def _run(
        self, arguments: list[str], schedule: Schedule, output: Place, events: tuple[Event, ...]
    ) -> int:
        arguments = [*arguments, "--model-uri", self.model_uri]
        arguments += ["--num-gpus-per-actor", "1" if schedule.has_gpus else "0"]
        numbers = random.Random(f"{schedule.seed} {len(events)}")
        return self.runner.run(arguments, output.root, events, numbers)

    def find_right_rows(self, schedule: Schedule, source: Place) -> pd.DataFrame:
        """Those of a run that nothing happened to."""
        if source.uri not in self._right:
            output = self.make_place("disk", f"right-{schedule.input_place}-{source.root.name}")
            self.label_till_done(replace(schedule, faults=(), runs=()), source, output)
            self._right[source.uri] = read_rows(output.uri)
            shutil.rmtree(output.root)
        return self._right[source.uri].copy()

    def copy_input(self, schedule: Schedule, source: Place) -> Place:
        """One that may be changed."""
        name = f"input-{schedule.seed}"
        if schedule.input_place == "s3":
            copy = Place(f"s3://{name}", self._server.make_bucket(name))
        else:
            copy = self.make_place("disk", name)
        shutil.copytree(source.root, copy.root, dirs_exist_ok=True)
        return copy

    def make_place(self, place: str, name: str) -> Place:
        """A folder, for an input or an output."""
        parent = self.places[place]
        return Place(f"{parent.uri}/{name}", parent.root / name)


@pytest.fixture(scope="module")
def chaos(
    rclone_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
    digit_images: np.ndarray,
    model_uri: str,
) -> Iterator[Chaos]:
    """Inputs on a disk and on S3; a cluster, a clock, a disk and a store that can be disturbed."""
    folder, disk = tmp_path_factory.mktemp("chaos"), tmp_path_factory.mktemp("disk")
    clock = Clock(folder)
    with pytest.MonkeyPatch.context() as patch, small_disk(disk) as may_mount:
        variables = dict(rclone_server.environment)
        # the cluster of other tests has put its token into their home
        variables |= {"HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
        for name, value in variables.items():
            patch.setenv(name, value)
        places = {
            "disk": Place(str(disk), disk),
            "s3": Place("s3://chaos", rclone_server.make_bucket("chaos")),
        }
        for place in places.values():
            write_inputs(place.root, digit_images)
        missing = set() if may_mount else {"disk full"}
        missing |= set() if clock.library else {"clock jump"}
        nodes = Nodes()
        try:
            with serve_faults(rclone_server.endpoint, FIRST_SEED) as proxy:
                runner = Runner(nodes, clock, proxy, folder)
                events = tuple(kind for kind in EVENTS if kind not in missing)
                yield Chaos(places, rclone_server, model_uri, runner, events)
                print(f"\n{len(SEEDS)} schedules: {dict(runner.done)}, store: {dict(proxy.done)}")
                print(f"not to be had here: {missing or 'nothing'}")
        finally:
            nodes.shutdown()


def write_inputs(root: Path, images: np.ndarray) -> None:
    """Loose images, some of them damaged; the same and a tar."""
    for name in ("scans", "archives"):
        (root / name).mkdir()
    generator = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        image = np.roll(images[i % len(images)], i // len(images), axis=1)
        data = cv2.imencode(".png", image)[1].tobytes()
        if i % 40 == 0:
            data = data[: generator.integers(len(data))]
        (root / f"scans/{i:04d}.png").write_bytes(data)
    with tarfile.open(root / "archives/a.tar", "w") as archive:
        for path in sorted((root / "scans").iterdir())[:300]:
            archive.add(path, path.name)
    for path in sorted((root / "scans").iterdir())[300:]:
        shutil.copy(path, root / "archives" / path.name)


def read_rows(output_uri: str) -> pd.DataFrame:
    """All rows that are current, by id."""
    store = open_store(labels_uri(output_uri))
    names = [info.name for page in store.list("part-") for info in page]
    tables = [pq.read_table(pa.BufferReader(store.read(name))) for name in names]
    rows = pa.concat_tables(tables, promote_options="permissive").sort_by("id").to_pandas()
    return rows.astype({"status": str})


def assert_equal(rows: pd.DataFrame, right: pd.DataFrame) -> None:
    """Row for row; probabilities differ by float noise in batches of another size."""
    floats = ["confidence", "probabilities"]
    pd.testing.assert_frame_equal(rows.drop(columns=floats), right.drop(columns=floats))
    np.testing.assert_allclose(rows["confidence"], right["confidence"], atol=1e-5)
    both = (np.stack(each["probabilities"].dropna()) for each in (rows, right))
    np.testing.assert_allclose(*both, atol=1e-5)


@pytest.mark.timeout(3600)  # each run of the command has its own
@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_of_faults_costs_no_row(seed: int, chaos: Chaos) -> None:
    """The command is run until it succeeds: `verify` is clean, the rows are a quiet run's."""
    runner = chaos.runner
    schedule = Schedule.draw(seed, chaos.events)
    runner.begin(schedule)
    source = chaos.make_place(schedule.input_place, schedule.input_name)
    output = chaos.make_place(schedule.output_place, f"seed-{seed}")
    right = chaos.find_right_rows(schedule, source)
    if schedule.has_update:
        copy = chaos.copy_input(schedule, source)
        right["path"] = right["path"].str.replace(source.uri, copy.uri, regex=False)
        source = copy
    exit_codes = chaos.label_till_done(schedule, source, output)
    num_told = assert_right(chaos, schedule, output, right)
    if schedule.has_update:
        change_input(source)
        exit_codes += chaos.label_till_done(schedule, source, output, "--update")
        new = chaos.find_right_rows(schedule, source)
        gone = right[~right["path"].isin(new["path"])]
        num_told += assert_right(chaos, schedule, output, pd.concat([new, gone]), has_ids=False)
        shutil.rmtree(source.root)
    print(schedule, exit_codes, f"{num_told} rows tried once more")
    shutil.rmtree(output.root)


def change_input(source: Place) -> None:
    """Some images are gone, some are others now, some are new."""
    store = open_store(source.uri)  # rclone sees only what is changed through it
    images = sorted(path.name for path in source.root.glob("*.png"))
    for i, name in enumerate(images[1::25]):
        store.write(name, (source.root / images[-1 - i * 7]).read_bytes())
    for i, name in enumerate(images[2::9]):
        store.write(f"new-{i:03d}.png", (source.root / name).read_bytes())
    for name in images[::60]:
        store.delete(name)


def assert_right(
    chaos: Chaos, schedule: Schedule, output: Place, right: pd.DataFrame, has_ids: bool = True
) -> int:
    """Rows are right, at the latest when those are redone that tell of faults; how many do."""
    columns = list(right.columns) if has_ids else [name for name in right if name != "id"]
    right = right.sort_values(columns[0])[columns].reset_index(drop=True)

    def read() -> pd.DataFrame:
        return read_rows(output.uri).sort_values(columns[0])[columns].reset_index(drop=True)

    rows = read()
    assert rows["path"].tolist() == right["path"].tolist(), schedule
    is_told = rows["status"].isin(schedule.may_fail)
    assert_equal(rows[~is_told], right[~is_told])
    if is_told.any():
        chaos.retry(schedule, output)
        assert_equal(read(), right)
    return int(is_told.sum())
