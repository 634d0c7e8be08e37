"""Honest doubt: what a network says of an image's two views, as probabilities and a confidence.

Each image comes as a canonical view (cleaned) and a raw view (not cleaned; the same image if it had
MNIST's form already). Their probabilities are averaged, weighted by what each view is worth; the
confidence is a logistic function of how sure the average is: one function for images that needed
no cleaning, one for the others. `training/calibrating.py` fits it.

Shapes: N images.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

NUM_CLASSES = 10

MIN_PROBABILITY = 1e-12
"""Below, log-odds are cut off: sharper than any calibration set can vouch for."""


class Views(NamedTuple):
    """What the network says of N images."""

    canonical: NDArray[np.float32]
    """(N, 10) logits of the canonical views."""
    raw: NDArray[np.float32]
    """(N, 10) logits of the raw views; the same numbers where the views are the same."""
    trust: NDArray[np.float32]
    """(N,) from 0 to 1: how clearly ink stood out from paper."""

    def find_clean(self) -> NDArray[np.bool_]:
        """(N,): of which images both views are one, as of those that had MNIST's form."""
        return np.asarray((self.canonical == self.raw).all(1))


class Reading(NamedTuple):
    """What is made of them."""

    probabilities: NDArray[np.float32]
    """(N, 10), each row summing to 1; the digit is the largest."""
    confidence: NDArray[np.float32]
    """(N,) probability that the digit is right."""


@dataclass(frozen=True)
class Threshold:
    """From which confidence on labels are accepted at a risk."""

    max_risk: float
    """With 95% confidence at most this share of the accepted labels is wrong."""
    confidence: float
    coverage: Mapping[str, float]
    """Share of the calibration images accepted, by population."""
    num_errors: Mapping[str, int]
    """How many of these are wrong."""


@dataclass(frozen=True)
class Trend:
    """Log-odds of being right, as a linear function of those of the largest probability."""

    offset: float = 0.0
    slope: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Fitted on images that training did not see. By default, softmax of the mean of both views."""

    temperature: float = 1.0
    """A view's probabilities are softmax(logits / temperature)."""
    view_weights: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Log-odds of the canonical view's weight: constant, per trust, per lead in energy."""
    clean: Trend = Trend()
    """Confidence of images that had MNIST's form."""
    cleaned: Trend = Trend()
    """Confidence of the others: a network may know less of what befalls a scan."""
    not_a_digit_below: float | None = None
    """Confidence below which an image is none; None if non-digits cannot be told from digits."""
    thresholds: tuple[Threshold, ...] = ()
    """By rising risk; empty where there were too few images to promise any."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """On the calibration images: how many, errors and mean confidence, by population."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` made of a calibration, checked.

        Raises:
            TypeError: a field is unknown or of a wrong type.
            ValueError: a number is not finite, or out of range.
        """
        calibration = cls(
            **{
                **fields,
                "view_weights": tuple(fields["view_weights"]),
                "clean": Trend(**fields["clean"]),
                "cleaned": Trend(**fields["cleaned"]),
                "thresholds": tuple(Threshold(**each) for each in fields["thresholds"]),
            }
        )
        numbers = [calibration.temperature, *calibration.view_weights]
        trends = (calibration.clean, calibration.cleaned)
        is_finite = np.isfinite(numbers + [value for each in trends for value in astuple(each)])
        shares = [calibration.not_a_digit_below or 0]
        for each in calibration.thresholds:
            shares += [each.max_risk, each.confidence]
        is_in_range = calibration.temperature > 0 and all(each.slope >= 0 for each in trends)
        is_in_range &= all(0 <= share <= 1 for share in shares)
        if not (is_finite.all() and is_in_range and len(calibration.view_weights) == 3):
            raise ValueError(f"calibration {fields} is out of range")
        return calibration

    def read(self, views: Views) -> Reading:
        """Probabilities and confidence of N images."""
        probabilities = self.weigh(views)
        is_clean = views.find_clean()
        offset = np.where(is_clean, self.clean.offset, self.cleaned.offset)
        slope = np.where(is_clean, self.clean.slope, self.cleaned.slope)
        log_odds = offset + slope * compute_log_odds(probabilities)
        return Reading(probabilities.astype(np.float32), sigmoid(log_odds).astype(np.float32))

    def weigh(self, views: Views) -> NDArray[np.float64]:
        """Mean of both views' probabilities, (N, 10), weighted by how much each is worth."""
        constant, of_trust, of_lead = self.view_weights
        lead = compute_energy(views.canonical) - compute_energy(views.raw)
        # in double precision, or fitting finds no gradient
        trust = views.trust.astype(np.float64)
        weight = sigmoid(constant + of_trust * trust + of_lead * lead)[:, None]
        canonical, raw = (
            softmax(logits, self.temperature) for logits in (views.canonical, views.raw)
        )
        return weight * canonical + (1 - weight) * raw

    @property
    def min_risk(self) -> float | None:
        """The smallest risk that can be promised."""
        return min((each.max_risk for each in self.thresholds), default=None)

    def find_threshold(self, max_risk: float) -> Threshold | None:
        """The tabulated threshold of the largest risk up to `max_risk`, if there is one."""
        return max(
            (each for each in self.thresholds if each.max_risk <= max_risk),
            key=lambda each: each.max_risk,
            default=None,
        )


def compute_log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of the largest of (N, 10) probabilities: (N,), without cancellation near 1."""
    digit = probabilities.argmax(1)[:, None]
    others = probabilities.copy()
    np.put_along_axis(others, digit, 0, 1)
    top = np.take_along_axis(probabilities, digit, 1)[:, 0]
    return np.asarray(np.log(top) - np.log(np.maximum(others.sum(1), MIN_PROBABILITY)))


def compute_energy(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log(sum(exp(logits))): (N, 10) -> (N,)."""
    largest = logits.max(1, initial=-np.inf).astype(np.float64)
    return np.asarray(largest + np.log(np.exp(logits - largest[:, None]).sum(1)))


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of (N, 10) logits, each row summing to 1."""
    scaled = logits.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of log-odds, without overflow."""
    return np.asarray((1 + np.tanh(log_odds / 2)) / 2)
