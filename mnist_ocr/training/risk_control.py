"""Thresholds with a promise: of the labels accepted, hardly any is wrong.

Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052): each threshold of a grid is a
hypothesis, "more than the risk is wrong among what it accepts", rejected where the Clopper-Pearson
bound lies below the risk. The grid is tested from its strictest threshold on and left at the first
failure (fixed-sequence testing), so the probability of any false promise stays below `ERROR_LEVEL`.

Shapes: N calibration images of a population.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from mnist_ocr.digits.calibration import Threshold, sigmoid

ERROR_LEVEL = 0.05
"""Probability that a promise does not hold."""

MAX_RISKS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""Risks for which a threshold is sought."""

LOG_ODDS_GRID = np.linspace(14, 0, 141)
"""Thresholds, as log-odds of the confidence; fixed before any image is seen."""

PROMISED = ("clean", "scanned")
"""Populations on each of which a promise must hold."""

MAX_SHARE_LOST = {"clean": 0.001, "scanned": 0.01, "shifted": 0.01}
"""Share of digits that may be taken for no digit, by population."""

MIN_OUTLIERS_TOLD = 0.1
"""Share of non-digits that must be found, or else confidence cannot tell them from digits."""


class Judged(NamedTuple):
    """What a calibration makes of a population."""

    confidence: NDArray[np.float32]
    """(N,) probability that the digit is right."""
    is_right: NDArray[np.bool_]
    """(N,) whether it is."""


def bound_risk(num_errors: int, num_images: int) -> float:
    """Upper 95% bound on the share of errors (Clopper and Pearson 1934), one-sided."""
    if num_errors >= num_images:
        return 1.0
    return float(betaincinv(num_errors + 1, num_images - num_errors, 1 - ERROR_LEVEL))


def choose_thresholds(scores: Mapping[str, Judged]) -> tuple[Threshold, ...]:
    """A threshold for each of `MAX_RISKS` that can be promised on every population `PROMISED`.

    Args:
        scores: By population; of confidences fitted on other images than these.
    """
    chosen = [choose_threshold(scores, max_risk) for max_risk in MAX_RISKS]
    return tuple(threshold for threshold in chosen if threshold is not None)


def choose_threshold(scores: Mapping[str, Judged], max_risk: float) -> Threshold | None:
    """The last threshold of the grid before the first that cannot be promised, if any."""
    chosen = None
    for confidence in sigmoid(LOG_ODDS_GRID).astype(np.float32).tolist():
        accepted = [_accept(scores[name], confidence) for name in PROMISED]
        if any(bound_risk(0, len(each)) > max_risk for each in accepted):
            continue  # too few for any test, whatever their labels
        if any(bound_risk(int((~each).sum()), len(each)) > max_risk for each in accepted):
            break
        chosen = confidence
    if chosen is None:
        return None
    accepted_by = {name: _accept(each, chosen) for name, each in scores.items()}
    return Threshold(
        max_risk,
        chosen,
        coverage={name: len(each) / len(scores[name][0]) for name, each in accepted_by.items()},
        num_errors={name: int((~each).sum()) for name, each in accepted_by.items()},
    )


def _accept(scores: Judged, confidence: float) -> NDArray[np.bool_]:
    """Whether they are right, of the images accepted."""
    return scores.is_right[scores.confidence >= np.float32(confidence)]


def choose_rejection(scores: Mapping[str, Judged]) -> float | None:
    """The confidence below which an image is no digit; None if hardly an outlier would be found."""
    below = min(
        float(np.quantile(scores[name].confidence, share, method="lower"))
        for name, share in MAX_SHARE_LOST.items()
    )
    is_told = (scores["outliers"].confidence < below).mean() >= MIN_OUTLIERS_TOLD
    return below if is_told else None


def measure(scores: Judged) -> dict[str, float]:
    """How many images of a population were read, and how well."""
    return {
        "num_images": len(scores.is_right),
        "num_errors": int((~scores.is_right).sum()),
        "mean_confidence": float(scores.confidence.mean()),
    }
