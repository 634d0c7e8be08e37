import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mnist_ocr.errors import UsageError
from mnist_ocr.training import evaluation
from mnist_ocr.training.config import EvaluateConfig
from mnist_ocr.training.datasets import Dataset, Split
from mnist_ocr.training.evaluation import Evaluation, count_confusion, evaluate
from mnist_ocr.training.metrics import EpochMetrics, format_history
from mnist_ocr.training.plots import render_png

PICTURES = [
    "confusion.png",
    "reliability.png",
    "risk_coverage.png",
    "predictions.png",
    "errors.png",
]
METRICS = EpochMetrics(
    epoch=1,
    train_loss=0.5,
    train_accuracy=0.8,
    validation_loss=0.3,
    validation_accuracy=0.9,
    learning_rate=0.01,
    images_per_s=1000.0,
    seconds=1.0,
    num_workers=1,
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory whose model reads 20 test images: one 3 as 8, one 5 not at all.

    There are also 9 training images, of digits 0 to 8, and 5 to validate, of digits 5 to 9.
    """
    labels = np.arange(20, dtype=np.int64) % 10
    digits = labels.astype(np.int8)
    digits[3], digits[5] = 8, -1

    class FakeClassifier:
        @staticmethod
        def load(model_uri: str) -> "FakeClassifier":
            return FakeClassifier()

        def predict(self, images: np.ndarray) -> SimpleNamespace:
            read = digits[images[:, 0, 0]]
            confidence = np.where(read < 0, np.nan, 0.9).astype(np.float32)
            probabilities = np.where(np.arange(10) == read[:, None], 0.91, 0.01)
            probabilities[read < 0] = np.nan
            return SimpleNamespace(digit=read, confidence=confidence, probabilities=probabilities)

    def build_split(start: int, stop: int) -> Split:
        """The first pixel of each image is its place in `digits`."""
        images = np.zeros((stop - start, 28, 28), np.uint8)
        images[:, 0, 0] = np.arange(start, stop)
        return Split(images, labels[start:stop])

    dataset = Dataset(
        "digits", train=build_split(10, 19), validation=build_split(15, 20), test=build_split(0, 20)
    )
    monkeypatch.setattr(evaluation, "DigitClassifier", FakeClassifier)
    monkeypatch.setattr(evaluation, "load_dataset", lambda config: dataset)
    monkeypatch.setattr(evaluation, "render_png", lambda figure: b"")  # takes its time
    return tmp_path / "model"


@pytest.fixture
def evaluated(model: Path) -> Evaluation:
    """An evaluation on the 20 test images."""
    return evaluate(EvaluateConfig(model_uri=str(model), dataset="digits"))


def test_accuracy_recall_and_confusion_count_the_same_images(evaluated: Evaluation) -> None:
    """A misread image is in its column, an unread one in none, and both cost accuracy."""
    confusion = np.array(evaluated.confusion)
    assert evaluated.accuracy == 18 / 20
    assert (evaluated.split, evaluated.num_images, evaluated.num_errors) == ("test", 20, 2)
    assert confusion[3, 8] == 1
    assert confusion[5].sum() == 1
    assert confusion.trace() == 18
    assert evaluated.recall == tuple(0.5 if digit in (3, 5) else 1.0 for digit in range(10))


def test_evaluation_is_json(evaluated: Evaluation) -> None:
    """The result survives JSON unchanged, but for tuples."""
    result = json.loads(json.dumps(asdict(evaluated), allow_nan=False))
    assert result["accuracy"] == evaluated.accuracy
    assert result["confusion"] == [list(row) for row in evaluated.confusion]
    assert result["scores"]["selective"][1] == {
        "coverage": 95,
        "num_images": 19,
        "num_errors": 1,
        "error_rate": 1 / 19,
    }


def test_format_shows_every_count_in_its_place(evaluated: Evaluation) -> None:
    """The printed matrix has a row for each true digit, its counts in order and its recall."""
    lines = evaluated.format().splitlines()
    rows = [line.split() for line in lines[1:11]]
    assert [[int(count) for count in row[1:11]] for row in rows] == [
        list(row) for row in evaluated.confusion
    ]
    assert rows[3][0] == "3"
    assert rows[3][-1] == "50.00%"
    summary = "90.00% of 20 digits test images read rightly, 1 not read at all, "
    assert lines[11].startswith(summary)
    assert lines[12].startswith("NLL 0.3317 nats · Brier ")
    assert lines[13] == "most confident 99%: 2 errors in 20 (10.00%)"
    assert lines[14] == "most confident 95%:  1 error in 19 (5.26%)"
    assert lines[15].startswith("those not read are the least confident errors")
    assert lines[16:] == list(evaluated.pictures)


def test_format_keeps_large_counts_apart(evaluated: Evaluation) -> None:
    """Columns widen with the counts and stay in line."""
    large = replace(evaluated, confusion=((1_234_567,) * 10,) * 10)
    header, *rows = large.format().splitlines()[:11]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[0].split()[1:11] == ["1234567"] * 10


@pytest.mark.parametrize(
    ("split", "num_images"), [("train", 9), ("validation", 5), ("test", 20), ("all", 34)]
)
def test_the_split_asked_for_is_read(split: str, num_images: int, model: Path) -> None:
    """`all` is the three splits together."""
    config = EvaluateConfig(model_uri=str(model), dataset="digits", split=split)
    result = evaluate(config)
    assert (result.split, result.num_images) == (split, num_images)
    assert sum(map(sum, result.confusion)) == num_images - (split in ("test", "all"))


def test_a_digit_without_images_has_no_recall(model: Path) -> None:
    """It is neither 0 nor a warning, but absent."""
    result = evaluate(EvaluateConfig(model_uri=str(model), dataset="digits", split="validation"))
    assert result.recall == (None,) * 5 + (1.0,) * 5
    assert result.format().splitlines()[1].split()[-1] == "-"


def test_a_split_without_images_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to measure."""
    nothing = Split(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int64))
    monkeypatch.setattr(
        evaluation,
        "load_dataset",
        lambda config: Dataset("digits", nothing, nothing, nothing),
    )
    with pytest.raises(UsageError, match=r"scans has no test images\. Pass --split all"):
        evaluate(EvaluateConfig(model_uri=str(model), dataset="scans"))


def test_pictures_land_beside_the_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default in a folder named after dataset and split; each is a picture."""
    monkeypatch.setattr(evaluation, "render_png", render_png)
    model.mkdir()
    (model / "metrics.jsonl").write_text(format_history([METRICS]))
    pictures = evaluate(EvaluateConfig(model_uri=str(model), dataset="digits")).pictures
    folder = model / "evaluation" / "digits-test"
    assert list(pictures) == [str(folder / name) for name in ["curves.png", *PICTURES]]
    for picture in pictures:
        assert len(np.unique(cv2.imread(picture))) > 10, picture


def test_pictures_land_where_asked(model: Path, tmp_path: Path) -> None:
    """`output_uri` is the folder."""
    config = EvaluateConfig(model_uri=str(model), dataset="digits", output_uri=f"{tmp_path}/out/")
    assert evaluate(config).pictures == tuple(str(tmp_path / "out" / name) for name in PICTURES)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(PICTURES)


def test_curves_are_drawn_from_what_can_be_read_of_the_metrics(model: Path) -> None:
    """Damaged lines are passed over, and of an epoch that was run twice the last line counts."""
    lines = format_history([replace(METRICS, epoch=2), METRICS, replace(METRICS, train_loss=0.1)])
    lines += format_history([replace(METRICS, epoch=3, train_loss=float("nan"))])
    lines += lines.splitlines()[0].replace("0.5", '"0.5"') + '\n{"epoch": 4, "train_l'
    model.mkdir()
    (model / "metrics.jsonl").write_bytes(lines.encode() + b"\xff\x00")
    history = evaluation._read_history(str(model))
    assert [(each.epoch, each.train_loss) for each in history] == [(1, 0.1), (2, 0.5)]
    pictures = evaluate(EvaluateConfig(model_uri=str(model), dataset="digits")).pictures
    assert pictures[0] == str(model / "evaluation/digits-test/curves.png")


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff{}\n[1]\nnull\n"])
def test_without_metrics_there_are_no_curves(
    content: bytes | None, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a readable record of the training there are the other pictures, and a line why."""
    if content is not None:
        model.mkdir()
        (model / "metrics.jsonl").write_bytes(content)
    with caplog.at_level(logging.INFO, "mnist_ocr"):
        result = evaluate(EvaluateConfig(model_uri=str(model), dataset="digits"))
    assert [Path(picture).name for picture in result.pictures] == PICTURES
    assert "curves.png is left out: " in caplog.text


def test_confusion_rows_are_the_truth() -> None:
    """Row is the true label, column the digit read."""
    confusion = count_confusion(np.array([7, 7, 1]), np.array([1, 1, 1], np.int8))
    assert confusion.shape == (10, 10)
    assert (confusion[7, 1], confusion[1, 7], confusion[1, 1]) == (2, 0, 1)
