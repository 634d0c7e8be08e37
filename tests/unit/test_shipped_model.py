"""The model directory inside the package, and its card."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.digits.model import INFO, PRETRAINED
from mnist_ocr.digits.networks import build_network, count_mmacs, count_parameters
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import load_dataset

CARD = (PRETRAINED / "README.md").read_text()


def test_card_is_of_this_model() -> None:
    """It states the sha256 of `model.json`, which holds those of the other files."""
    assert hashlib.sha256((PRETRAINED / INFO).read_bytes()).hexdigest() in CARD


def test_model_is_compact() -> None:
    """At most 300,000 parameters and 10 million multiply-adds, as the card says."""
    network = build_network(DigitClassifier.load().model.info.architecture)
    assert count_parameters(network) <= 300_000
    assert count_mmacs(network) <= 10
    assert f"{count_parameters(network):,} parameters" in CARD


def test_model_names_no_place() -> None:
    """Where it was trained, and where its data lay, is nobody's business."""
    assert '"/' not in (PRETRAINED / INFO).read_text()


def test_default_promises_something() -> None:
    """Labels can be accepted at the default risk, and non-digits be told."""
    calibration = DigitClassifier.load().model.info.calibration
    assert calibration.find_threshold(0.001) is not None
    assert calibration.not_a_digit_below is not None


@pytest.mark.test_data
def test_runtimes_agree_on_it(test_data: Path) -> None:
    """ONNX Runtime and torch say the same of 200 images of held-out writers, nearly all right."""
    images, labels = load_dataset(DatasetConfig(data_root=str(test_data))).validation
    first, second = (
        DigitClassifier.load(runtime=runtime).predict(images[:200]) for runtime in ("onnx", "torch")
    )
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-5)
    np.testing.assert_allclose(first.confidence, second.confidence, atol=1e-5)
    assert (first.digit == labels[:200]).mean() > 0.97
