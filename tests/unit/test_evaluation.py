import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from mnist_ocr.training import evaluation
from mnist_ocr.training.config import EvaluateConfig
from mnist_ocr.training.datasets import Dataset, Split
from mnist_ocr.training.evaluation import Evaluation, count_confusion, evaluate


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """Two images of each digit; one 3 read as 8, one 5 not read at all."""
    labels = np.arange(20, dtype=np.int64) % 10
    digits = labels.astype(np.int8)
    digits[3], digits[5] = 8, -1
    split = Split(np.zeros((20, 28, 28), np.uint8), labels)

    class FakeClassifier:
        @staticmethod
        def load(model_uri: str) -> "FakeClassifier":
            return FakeClassifier()

        def predict(self, images: np.ndarray) -> SimpleNamespace:
            return SimpleNamespace(digit=digits[: len(images)])

    monkeypatch.setattr(evaluation, "DigitClassifier", FakeClassifier)
    monkeypatch.setattr(
        evaluation, "load_dataset", lambda name, data_root: Dataset(name, split, split, split)
    )
    return evaluate(EvaluateConfig("models/fake", dataset="digits"))


def test_accuracy_recall_and_confusion_count_the_same_images(evaluated: Evaluation) -> None:
    """A misread image is in its column, an unread one in none, and both cost accuracy."""
    confusion = np.array(evaluated.confusion)
    assert evaluated.accuracy == 18 / 20
    assert evaluated.num_images == 20
    assert confusion[3, 8] == 1
    assert confusion[5].sum() == 1
    assert confusion.trace() == 18
    assert evaluated.recall == tuple(0.5 if digit in (3, 5) else 1.0 for digit in range(10))


def test_evaluation_is_json(evaluated: Evaluation) -> None:
    """The result survives JSON unchanged, but for tuples."""
    result = json.loads(json.dumps(asdict(evaluated)))
    assert result["accuracy"] == evaluated.accuracy
    assert result["confusion"] == [list(row) for row in evaluated.confusion]


def test_format_shows_every_count_in_its_place(evaluated: Evaluation) -> None:
    """The printed matrix has a row for each true digit, its counts in order and its recall."""
    lines = evaluated.format().splitlines()
    rows = [line.split() for line in lines[1:11]]
    assert [[int(count) for count in row[1:11]] for row in rows] == [
        list(row) for row in evaluated.confusion
    ]
    assert rows[3][0] == "3"
    assert rows[3][-1] == "50.00%"
    assert lines[-1].startswith("90.00% of 20 digits test images")


def test_confusion_rows_are_the_truth() -> None:
    """Row is the true label, column the digit read."""
    confusion = count_confusion(np.array([7, 7, 1]), np.array([1, 1, 1], np.int8))
    assert confusion.shape == (10, 10)
    assert (confusion[7, 1], confusion[1, 7], confusion[1, 1]) == (2, 0, 1)
