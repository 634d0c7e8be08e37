import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_ocr.errors import UsageError
from mnist_ocr.local_store import LocalStore
from mnist_ocr.training.metrics import EpochMetrics, format_history, parse_history
from mnist_ocr.training.tracking import EVENTS, SCALARS, RunTracker

FIRST = EpochMetrics(
    epoch=1,
    train_loss=0.5,
    train_accuracy=0.8,
    validation_loss=0.25,
    validation_accuracy=0.9,
    learning_rate=0.01,
    images_per_s=1000.0,
    seconds=2.0,
    num_workers=1,
)
SECOND = replace(FIRST, epoch=2, validation_accuracy=0.95)


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_epochs_are_recorded_once_as_they_come(tmp_path: Path) -> None:
    """In `metrics.jsonl` and for TensorBoard, also when a report is repeated."""
    with RunTracker(LocalStore(str(tmp_path)), {}) as tracker:
        tracker.update([FIRST])
        assert parse_history((tmp_path / "metrics.jsonl").read_text()) == [FIRST]
        tracker.update([FIRST, SECOND])
        tracker.update([FIRST, SECOND])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(FIRST), asdict(SECOND)]
    scalars = read_scalars((tmp_path / EVENTS).parent)
    assert set(scalars) == set(SCALARS)
    assert scalars["accuracy/validation"] == [(1, pytest.approx(0.9)), (2, pytest.approx(0.95))]


def test_epochs_that_are_done_again_are_not_recorded_twice(tmp_path: Path) -> None:
    """Workers that start again without the last checkpoint repeat an epoch."""
    with RunTracker(LocalStore(str(tmp_path)), {}) as tracker:
        for history in ([FIRST, SECOND], [FIRST], [FIRST, SECOND]):
            tracker.update(history)
    steps = [step for step, _ in read_scalars((tmp_path / EVENTS).parent)["loss/train"]]
    assert steps == [1, 2]


def test_continued_run_replaces_the_files(tmp_path: Path) -> None:
    """A second driver, told the whole history, leaves no epoch twice."""
    for history in ([FIRST], [FIRST, SECOND]):
        with RunTracker(LocalStore(str(tmp_path)), {}) as tracker:
            tracker.update(history)
    assert read_scalars((tmp_path / EVENTS).parent)["learning_rate"] == [
        (1, pytest.approx(0.01)),
        (2, pytest.approx(0.01)),
    ]


def test_damaged_line_is_passed_over() -> None:
    """The epochs that can be read remain."""
    lines = "garbage\n" + format_history([FIRST]) + '{"epoch": 2}\n[]\n' + format_history([SECOND])
    assert parse_history(lines) == [FIRST, SECOND]


def test_mlflow_gets_parameters_epochs_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the experiment `mnist-ocr`, finished."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder will do for a test
    uri = (tmp_path / "mlruns").as_uri()
    store = LocalStore(str(tmp_path / "model"))
    with RunTracker(store, {"recipe": "cnn", "seed": 3}, uri) as tracker:
        tracker.update([FIRST])
        tracker.update([FIRST, SECOND])
        tracker.finish({"model_uri": "models/x", "test_accuracy": 0.99})
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("mnist-ocr")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"recipe": "cnn", "seed": "3"}
    assert run.data.metrics["test_accuracy"] == 0.99
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "validation_accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.9), (2, 0.95)]


def test_missing_mlflow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"pip install 'mnist-ocr\[mlflow\]'"):
        RunTracker(LocalStore(str(tmp_path)), {}, "http://localhost:1")
