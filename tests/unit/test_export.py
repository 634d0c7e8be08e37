from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from test_classifier import save

from mnist_ocr import DigitClassifier
from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import UsageError
from mnist_ocr.training.config import ExportConfig
from mnist_ocr.training.export import export


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(tmp_path / "reader")
    return tmp_path / "reader"


@pytest.fixture
def images() -> np.ndarray:
    """Noise within a black border: in MNIST's geometry, so that it stays as it is."""
    noise = np.random.default_rng(0).integers(128, 256, (7, 19, 19), dtype=np.uint8)
    return np.pad(noise, ((0, 0), (5, 4), (5, 4)))


def test_state_dict_loads_without_unpickling_code(model: Path, images: np.ndarray) -> None:
    """`torch.load(weights_only=True)` gives a plain state_dict whose logits are the model's."""
    exported = export(ExportConfig(model_uri=str(model), format="pt", output_uri=f"{model}/x.pt"))
    state = torch.load(exported.output_uri, weights_only=True)  # noqa: TID251
    network = build_network(exported.architecture).eval()
    network.load_state_dict(state)
    inputs = (torch.tensor(images).unsqueeze(1).float() / 255 - exported.mean) / exported.std
    with torch.no_grad():
        logits = network(inputs).numpy()
    wanted = DigitClassifier.load(str(model)).predict(images).probabilities
    assert (logits.argmax(1) == wanted.argmax(1)).all()


@pytest.mark.parametrize("num_images", [1, 7])
def test_onnx_takes_any_number_of_raw_images(
    model: Path, images: np.ndarray, num_images: int
) -> None:
    """uint8 in, probabilities out, equal to torch's to 1e-5: normalisation is inside."""
    exported = export(ExportConfig(model_uri=str(model), output_uri=f"{model}/x.onnx"))
    session = onnxruntime.InferenceSession(exported.output_uri)
    (probabilities,) = session.run(["probabilities"], {"images": images[:num_images]})
    wanted = DigitClassifier.load(str(model), runtime="torch").predict(images[:num_images])
    np.testing.assert_allclose(probabilities, wanted.probabilities, atol=1e-5)


def test_file_is_named_after_the_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And lies in the current folder, unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    exported = export(ExportConfig(model_uri=str(model), format="pt"))
    assert exported.output_uri == str(tmp_path / "reader.pt")
    assert exported.size_bytes == (tmp_path / "reader.pt").stat().st_size


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """With the sentence that `label` and `evaluate` use."""
    with pytest.raises(UsageError, match="is not a model directory"):
        export(ExportConfig(model_uri=str(tmp_path)))
