"""Temperature scaling."""

import numpy as np
import pytest

from mnist_ocr.digits.calibration import fit_temperature, negative_log_likelihood, softmax


def draw_logits(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (20_000, 10)).astype(np.float32)
    uniform = generator.random((len(logits), 1))
    labels = (softmax(logits, temperature).cumsum(axis=1) < uniform).sum(axis=1).clip(max=9)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fitted_temperature_is_that_of_the_data(temperature: float) -> None:
    """The temperature that the labels were drawn with is found again."""
    assert fit_temperature(*draw_logits(temperature)) == pytest.approx(temperature, rel=0.05)


def test_fitted_temperature_has_the_least_loss() -> None:
    """Neither a higher nor a lower one explains the labels better."""
    logits, labels = draw_logits(1.7)
    best = fit_temperature(logits, labels)
    loss = negative_log_likelihood(logits, labels, best)
    assert loss <= negative_log_likelihood(logits, labels, best * 1.02)
    assert loss <= negative_log_likelihood(logits, labels, best / 1.02)


def test_no_mistake_at_all_leaves_the_logits_alone() -> None:
    """A faultless validation set says nothing of doubt, and must not raise confidence."""
    labels = np.arange(10)
    assert fit_temperature(np.eye(10, dtype=np.float32), labels) == 1.0


def test_softmax_of_extreme_logits_is_finite() -> None:
    """No overflow, and rows sum to 1."""
    probabilities = softmax(np.array([[1e4, -1e4] + [0.0] * 8], np.float32))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1)
