"""Model directories and the Python API."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mnist_ocr import DigitClassifier
from mnist_ocr.digits import model as model_module
from mnist_ocr.digits.batch import ImageBatch
from mnist_ocr.digits.calibration import Calibration, Threshold, Trend, softmax
from mnist_ocr.digits.model import load_model, save_model
from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import UsageError

MEAN, STD, TEMPERATURE = 0.13, 0.31, 1.7


CALIBRATION = Calibration(
    temperature=TEMPERATURE,
    view_weights=(0.3, -0.5, 0.1),
    clean=Trend(-0.2, 0.9),
    cleaned=Trend(-0.1, 0.8),
    not_a_digit_below=0.1,
    thresholds=(Threshold(0.01, 0.9, {"clean": 0.5}, {"clean": 0}),),
    measured={"clean": {"num_images": 700}},
)


def save(
    folder: Path, architecture: str = "mlp-128", calibration: Calibration = CALIBRATION
) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_network(architecture).eval()
    save_model(
        str(folder),
        network,
        architecture=architecture,
        mean=MEAN,
        std=STD,
        calibration=calibration,
        metrics={"test_accuracy": 0.5},
        training={},
        data={},
    )
    return network


@pytest.fixture
def images() -> np.ndarray:
    images = np.zeros((700, 28, 28), np.uint8)  # more than one batch of the runtime
    images[:, 5:24, 5:24] = np.random.default_rng(0).integers(128, 256, (700, 19, 19))
    return images


@pytest.mark.parametrize("architecture", ["mlp-128", "lenet", "cnn"])
def test_saved_model_gives_the_networks_logits_in_both_runtimes(
    architecture: str, tmp_path: Path, images: np.ndarray
) -> None:
    """ONNX Runtime and torch agree with the network that was saved to 1e-5."""
    network = save(tmp_path, architecture)
    inputs = (torch.from_numpy(images[:, None]) / 255 - MEAN) / STD
    with torch.inference_mode():
        expected = network(inputs.float()).numpy()
    onnx = DigitClassifier.load(str(tmp_path))
    torch_runtime = DigitClassifier.load(str(tmp_path), runtime="torch")
    for classifier in (onnx, torch_runtime):
        np.testing.assert_allclose(classifier.logits(images), expected, atol=1e-5, rtol=1e-5)
        probabilities = classifier.predict(images).probabilities
        np.testing.assert_allclose(probabilities, softmax(expected, TEMPERATURE), atol=1e-5)


def test_predictions_are_arrays_named_like_the_columns(tmp_path: Path, images: np.ndarray) -> None:
    """The digit is that of the largest probability."""
    save(tmp_path)
    predictions = DigitClassifier.load(str(tmp_path)).predict(images[:20])
    assert predictions.digit.dtype == np.int8
    assert predictions.probabilities.shape == (20, 10)
    assert (predictions.digit == predictions.probabilities.argmax(1)).all()
    assert predictions.confidence.dtype == np.float32
    assert ((predictions.confidence > 0) & (predictions.confidence < 1)).all()
    assert (predictions.status == "ok").all()


def test_bytes_paths_and_arrays_of_one_image_agree(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture, five ways to hand it over, one prediction; a relative path too."""
    save(tmp_path / "model")
    encoded = cv2.imencode(".png", images[0])[1].tobytes()
    (tmp_path / "a.png").write_bytes(encoded)
    monkeypatch.chdir(tmp_path)
    sources = [images[0], encoded, tmp_path / "a.png", f"file://{tmp_path}/a.png", "a.png"]
    predictions = DigitClassifier.load("model").predict(sources)
    assert (predictions.probabilities == predictions.probabilities[0]).all()


def test_what_cannot_be_read_is_a_status(tmp_path: Path, images: np.ndarray) -> None:
    """Bad data keeps its place, without a digit, with a reason."""
    save(tmp_path / "model")
    classifier = DigitClassifier.load(str(tmp_path / "model"))
    blank = np.full((50, 40), 240, np.uint8)
    predictions = classifier.predict([b"", images[0], tmp_path / "none.png", b"text", blank])
    assert predictions.status.tolist() == ["empty", "ok", "missing", "not_an_image", "blank"]
    assert predictions.digit[[0, 2, 3, 4]].tolist() == [-1] * 4
    assert np.isnan(predictions.confidence[[0, 2, 3, 4]]).all()
    assert predictions.error[1] is None
    assert "none.png" in str(predictions.error[2])


def test_no_images_give_no_predictions(tmp_path: Path) -> None:
    """An empty list is not an error."""
    save(tmp_path)
    assert DigitClassifier.load(str(tmp_path)).predict([]).probabilities.shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("one.png", "a list of images, not one str"),
        ([np.zeros((28, 28), np.float32)], r"float32 array of shape \(28, 28\)"),
        ([np.zeros((28, 28, 3), np.uint8)], r"shape \(28, 28, 3\)"),
        ([7], "Image 0 is a int"),
    ],
)
def test_wrong_arguments_are_explained(images: object, message: str, tmp_path: Path) -> None:
    """A programmer's mistake is a TypeError that says what to pass."""
    save(tmp_path)
    with pytest.raises(TypeError, match=message):
        DigitClassifier.load(str(tmp_path)).predict(images)


def test_views_that_differ_are_both_read(tmp_path: Path, images: np.ndarray) -> None:
    """Probabilities and confidence are those of the two views' logits, whatever the batch."""
    save(tmp_path)
    classifier = DigitClassifier.load(str(tmp_path))
    raw = images[:8].copy()
    raw[::2] = images[8:16:2]  # of the others both views are the same
    trust = np.linspace(0, 1, 8, dtype=np.float32)
    status, error = ["ok"] * 8, [None] * 8
    status[4] = "blank"

    def read(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        batch = ImageBatch(images[:8][rows], raw[rows], trust[rows], status[rows], error[rows])
        predictions = classifier.predict_batch(batch)
        return predictions.probabilities, predictions.confidence

    logits = softmax(classifier.logits(images[:8]), TEMPERATURE)
    probabilities, confidence = read(slice(None))
    np.testing.assert_allclose(probabilities[1::2], logits[1::2], atol=1e-6)
    assert (np.abs(probabilities[::2] - logits[::2]).max(1)[[0, 1, 3]] > 1e-3).all()
    assert np.isnan(confidence).tolist() == [False] * 4 + [True] + [False] * 3
    for rows in (slice(0, 3), slice(3, 8), slice(None, None, -1)):
        for whole, part in zip((probabilities, confidence), read(rows), strict=True):
            np.testing.assert_allclose(whole[rows], part, atol=1e-6)


def test_what_is_hardly_a_digit_says_so(tmp_path: Path, images: np.ndarray) -> None:
    """Confidence below the model's threshold is a status; the digit stays."""
    save(tmp_path, calibration=replace(CALIBRATION, not_a_digit_below=1.0))
    predictions = DigitClassifier.load(str(tmp_path)).predict([images[0], b""])
    assert predictions.status.tolist() == ["not_a_digit", "empty"]
    assert predictions.digit[0] >= 0
    assert predictions.probabilities[0].sum() == pytest.approx(1)
    assert "hardly looks like a digit" in str(predictions.error[0])


def test_calibration_survives_the_model_directory(tmp_path: Path) -> None:
    """All of it, through JSON."""
    save(tmp_path)
    assert load_model(str(tmp_path)).info.calibration == CALIBRATION


@pytest.mark.parametrize(
    "harm",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"clean": {"offset": 0.0, "slope": -1.0}},
        {"cleaned": {"offset": float("nan"), "slope": 1.0}},
        {"not_a_digit_below": 1.5},
        {"view_weights": [0, 0]},
        {"view_weights": None},
        {"thresholds": [{"max_risk": 0.1}]},
        {"bias": 1.0},
    ],
)
def test_damaged_calibration_is_refused(harm: dict[str, object], tmp_path: Path) -> None:
    """One sentence, no guess."""
    save(tmp_path)
    info = json.loads((tmp_path / "model.json").read_text())
    info["calibration"] |= harm
    (tmp_path / "model.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="is not a model description"):
        load_model(str(tmp_path))


def test_model_of_the_package_is_the_default(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is none, one sentence says what to pass."""
    monkeypatch.setattr(model_module, "PRETRAINED", tmp_path)
    with pytest.raises(UsageError, match=r"comes without one\. Pass --model-uri"):
        DigitClassifier.load()
    save(tmp_path)
    assert (DigitClassifier.load().predict(images[:3]).status == "ok").all()


def test_loading_and_predicting_imports_neither_torch_nor_ray(
    tmp_path: Path, repository: Path
) -> None:
    """The Python API starts in a fraction of a second."""
    save(tmp_path)
    code = (
        "import sys, numpy; from mnist_ocr import DigitClassifier;"
        f"DigitClassifier.load({str(tmp_path)!r}).predict(numpy.zeros((2, 28, 28), 'uint8'));"
        "heavy = {'torch', 'ray', 'tyro', 'sklearn', 'scipy', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.strip() == "[]"


def test_folder_that_is_no_model_is_explained(tmp_path: Path) -> None:
    """One sentence names the folder and what should have written it."""
    with pytest.raises(UsageError, match=r"is not a model directory: .*mnist-ocr train"):
        load_model(str(tmp_path))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a model description"):
        load_model(str(tmp_path))


def test_damaged_model_is_refused(tmp_path: Path) -> None:
    """One flipped bit in a file is found by its sha256."""
    save(tmp_path)
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(UsageError, match=r"model\.onnx does not have the sha256"):
        load_model(str(tmp_path))


def test_model_of_another_preprocessing_is_refused(tmp_path: Path) -> None:
    """A model must get its images the way it was trained with."""
    save(tmp_path)
    info = json.loads((tmp_path / "model.json").read_text())
    info["preprocessing_version"] = 999
    (tmp_path / "model.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="wants preprocessing version 999"):
        load_model(str(tmp_path))
