"""`_job.json` and who may add to an output."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from mnist_ocr.digits.calibration import Calibration, Threshold
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.job import JOB, Job, check_same_job, find_job, read_job, write_job
from mnist_ocr.labelling.label import explain_no_threshold
from mnist_ocr.labelling.manifest import ListingMonitor
from mnist_ocr.labelling.report import Progress, follow
from mnist_ocr.labelling.shards import Receipt
from mnist_ocr.labelling.workers import plan_workers
from mnist_ocr.storage import open_store
from mnist_ocr.traffic import Traffic

WANTED = Job(
    job_id="1",
    input_uri="s3://scans/2026",
    output_uri="s3://labels/out",
    extensions=(".png",),
    anonymous=False,
    shard_size=4096,
    max_risk=0.001,
    threshold=0.99,
    model_sha256="ab" * 32,
    preprocessing_version=1,
    versions={"mnist-ocr": "0.1.0"},
)


def test_job_on_record_is_read_back(tmp_path: Path) -> None:
    """All of it, and None where there is none."""
    store = open_store(str(tmp_path))
    assert read_job(store, Job) is None
    write_job(store, WANTED)
    assert read_job(store, Job) == WANTED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_uri": "s3://scans/2025"}, "input_uri was 's3://scans/2025'"),
        ({"model_sha256": "cd" * 32}, "model_sha256 was 'cdcd"),
        ({"max_risk": 0.5}, "max_risk was 0.5, is 0.001"),
        ({"extensions": ()}, "extensions was \\[\\], is \\['.png'\\]"),
        ({"versions": {"mnist-ocr": "0.0.9"}}, "versions was {'mnist-ocr': '0.0.9'}"),
        ({"preprocessing_version": 0}, "preprocessing_version was 0, is 1"),
        ({"shard_size": 1}, "shard_size was 1"),
    ],
)
def test_other_job_is_refused_by_name(change: dict[str, object], message: str) -> None:
    """Each thing that a row depends on is compared, and named where it differs."""
    with pytest.raises(UsageError, match=message):
        check_same_job(replace(WANTED, **change), WANTED)


def test_same_job_may_be_moved_and_resumed() -> None:
    """Neither the job's id nor the output's address makes it another."""
    check_same_job(replace(WANTED, job_id="2", output_uri="/elsewhere"), WANTED)


@pytest.mark.parametrize("anonymous", [False, True])
def test_run_opens_the_input_as_it_was_told(anonymous: bool, tmp_path: Path) -> None:
    """Whether requests are signed is a run's own, and the job the same; a bucket may be closed."""
    output = open_store(str(tmp_path))
    write_job(output, replace(WANTED, anonymous=not anonymous))
    wanted = replace(WANTED, job_id="2", anonymous=anonymous)
    job, is_new = find_job(wanted, FolderSource(open_store("/scans")), output)
    assert (job.anonymous, job.job_id, is_new) == (anonymous, "1", False)
    assert job.job_sha256 == read_job(output, Job).job_sha256


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"job_id": 1}'])
def test_damaged_job_file_is_refused(content: bytes, tmp_path: Path) -> None:
    """One sentence, no guess."""
    (tmp_path / JOB).write_bytes(content)
    with pytest.raises(UsageError, match=r"is damaged \(|of another command or version"):
        read_job(open_store(str(tmp_path)), Job)


@pytest.mark.parametrize(
    ("options", "cluster", "plan"),
    [
        ((None, None), {"CPU": 8.0}, (8, 0.0)),
        ((3, None), {"CPU": 8.0}, (3, 0.0)),
        ((30, None), {"CPU": 8.0}, (8, 0.0)),
        ((None, None), {"CPU": 8.0, "GPU": 2.0}, (2, 1.0)),
        ((None, None), {"CPU": 64.0, "GPU": 2.0}, (4, 0.5)),
        ((None, None), {"CPU": 192.0, "GPU": 1.0}, (4, 0.25)),
        ((None, 0.25), {"CPU": 8.0, "GPU": 2.0}, (8, 0.25)),
        ((None, 0.0), {"CPU": 8.0, "GPU": 2.0}, (8, 0.0)),
    ],
)
def test_workers_fill_the_cluster(
    options: tuple[int | None, float | None],
    cluster: dict[str, float],
    plan: tuple[int, float],
) -> None:
    """One actor per core, or as many as the GPUs hold, and never more."""
    assert plan_workers(*options, cluster) == plan


@pytest.mark.parametrize(
    "options",
    [
        {"max_risk": 0.0},
        {"max_risk": 1.0},
        {"num_actors": 0},
        {"num_gpus_per_actor": 2.0},
        {"shard_size": 0},
        {"shard_size": 100_000},
        {"max_error_rate": -0.1},
    ],
)
def test_values_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    """By name, as a ValueError, before anything is loaded."""
    with pytest.raises(ValueError, match=next(iter(options))):
        LabelConfig(**{"input_uri": "in", "output_uri": "out", "model_uri": "m", **options})


@pytest.mark.parametrize(
    ("thresholds", "remedy"),
    [
        ((Threshold(0.02, 0.9, {}, {}),), "pass --max-risk 0.02 or more."),
        ((), "train on more images."),
    ],
)
def test_risk_that_cannot_be_promised_is_explained(
    thresholds: tuple[Threshold, ...], remedy: str
) -> None:
    """One sentence says that no row will be accepted, and which risk would do."""
    sentence = explain_no_threshold(0.001, Calibration(thresholds=thresholds))
    assert sentence.startswith("No row will be accepted: ")
    assert "a risk of 0.001" in sentence
    assert sentence.endswith(remedy)


def test_gpus_that_are_not_there_are_named() -> None:
    """Ray would wait for them for ever."""
    with pytest.raises(UsageError, match="num_gpus_per_actor is 1 and the Ray cluster has 0 GPUs"):
        plan_workers(None, 1, {"CPU": 8.0})


def test_workers_end_with_who_follows_them(tmp_path: Path) -> None:
    """A command that holds its output no more does not let them write on."""
    is_closed = Event()

    def label() -> Generator[Receipt, None, None]:
        try:
            while True:
                yield Receipt(0, 1, 1, {"ok": 1}, Traffic())
        finally:
            is_closed.set()

    def stop(progress: Progress) -> None:
        raise UsageError("It was taken over.")

    with pytest.raises(UsageError, match="taken over") as caught:
        list(follow(label(), [], ListingMonitor(open_store(str(tmp_path)), 8), stop))
    assert is_closed.is_set(), caught  # while the traceback holds all frames
