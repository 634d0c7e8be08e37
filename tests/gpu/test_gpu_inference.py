"""What only a GPU can show; skipped where there is none."""

import numpy as np
import pytest
import torch

from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.digits.inference import BATCH_SIZES, TorchRuntime
from mnist_ocr.digits.model import load_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("num_images", [1, 5000, 100_000])
def test_gpu_agrees_with_the_cpu(num_images: int) -> None:
    """Whatever part of the last batch is full; as far as TensorFloat-32, ten bits, lets it."""
    images = np.random.default_rng(0).integers(0, 256, (num_images, 28, 28), np.uint8)
    model = load_model(None)
    logits = TorchRuntime(model).run(images)
    sample = np.linspace(0, num_images - 1, min(num_images, 2000)).astype(int)
    expected = DigitClassifier(model).logits(images[sample])
    np.testing.assert_allclose(logits[sample], expected, atol=1e-2)
    assert (logits[sample].argmax(1) == expected.argmax(1)).mean() > 0.999


def test_batch_size_is_found() -> None:
    """One of those tried."""
    assert TorchRuntime(load_model(None)).batch_size in BATCH_SIZES
