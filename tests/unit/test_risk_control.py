"""Thresholds with a promise."""

import numpy as np
import pytest

from mnist_ocr.training.risk_control import (
    MAX_RISKS,
    PROMISED,
    Judged,
    bound_risk,
    choose_rejection,
    choose_threshold,
    choose_thresholds,
)


def draw_scores(num_images: int, rng: np.random.Generator, sharpness: float = 5.0) -> Judged:
    """Images whose confidence is the probability that they are right."""
    log_odds = rng.normal(sharpness, 2.5, num_images)
    confidence = 1 / (1 + np.exp(-log_odds))
    return Judged(confidence.astype(np.float32), rng.random(num_images) < confidence)


def draw_populations(num_images: int, seed: int) -> dict[str, Judged]:
    rng = np.random.default_rng(seed)
    return {
        "clean": draw_scores(num_images, rng),
        "scanned": draw_scores(num_images, rng, 4.0),
        "shifted": draw_scores(num_images, rng, 3.0),
        "outliers": Judged(
            rng.uniform(0, 0.2, 100).astype(np.float32), np.zeros(100, dtype=np.bool_)
        ),
    }


@pytest.mark.parametrize(
    ("num_errors", "num_images", "bound"),
    [(0, 2995, 1e-3), (0, 299, 0.01), (0, 0, 1.0), (5, 5, 1.0), (1, 4742, 1e-3)],
)
def test_bound_is_clopper_and_pearsons(num_errors: int, num_images: int, bound: float) -> None:
    """Without an error 1 - 0.05 ** (1 / n), one-sided."""
    assert bound_risk(num_errors, num_images) == pytest.approx(bound, rel=5e-3)


def test_promise_is_broken_in_one_of_twenty_cases_at_most() -> None:
    """300 calibration sets; the true risk above each threshold is taken from a large sample."""
    rng = np.random.default_rng(0)
    truth = [draw_scores(400_000, rng), draw_scores(400_000, rng, 4.0)]
    num_promises, broken = 0, np.zeros(len(PROMISED))
    for seed in range(300):
        threshold = choose_threshold(draw_populations(1000, seed + 1), max_risk=0.02)
        if threshold is None:
            continue
        num_promises += 1
        for i, population in enumerate(truth):
            accepted = population.is_right[population.confidence >= threshold.confidence]
            broken[i] += (~accepted).mean() > 0.02
    assert num_promises > 200
    # 5% of 300 and two standard deviations of a count of 15
    assert (broken <= 15 + 2 * np.sqrt(15)).all()
    assert broken.sum() > 0  # a bound that never fails would accept too little


def test_more_risk_accepts_more() -> None:
    """Thresholds fall as the risk rises, and coverage and errors of each population are told."""
    thresholds = choose_thresholds(draw_populations(5000, 0))
    confidences = [threshold.confidence for threshold in thresholds]
    assert len(confidences) > 3
    assert confidences == sorted(confidences, reverse=True)
    assert {threshold.max_risk for threshold in thresholds} <= set(MAX_RISKS)
    for threshold in thresholds:
        assert set(threshold.coverage) == {"clean", "scanned", "shifted", "outliers"}
        assert 0 < threshold.coverage["clean"] <= 1


def test_too_few_images_promise_only_large_risks() -> None:
    """200 images without a mistake cannot promise less than 1.5%, and two images nothing."""
    sure = Judged(np.full(200, 0.9999999, np.float32), np.ones(200, np.bool_))
    scores = draw_populations(200, 0) | {"clean": sure, "scanned": sure}
    assert [threshold.max_risk for threshold in choose_thresholds(scores)] == [0.02, 0.05, 0.1]
    few = Judged(sure.confidence[:2], sure.is_right[:2])
    assert choose_thresholds(scores | {"scanned": few}) == ()


def test_promise_holds_on_the_worse_population() -> None:
    """Errors in either raise the threshold of both."""
    scores = draw_populations(5000, 3)
    alone = choose_threshold(scores | {"scanned": scores["clean"]}, 0.02)
    both = choose_threshold(scores, 0.02)
    assert alone is not None
    assert both is not None
    assert both.confidence > alone.confidence


def test_failed_threshold_ends_the_search() -> None:
    """What looser thresholds would accept cannot make up for errors among the surest."""
    confidence = np.r_[np.full(5000, 0.9999, np.float32), np.full(100_000, 0.9, np.float32)]
    is_right = np.arange(len(confidence)) >= 20
    scores = draw_populations(100, 0) | dict.fromkeys(PROMISED, Judged(confidence, is_right))
    assert choose_threshold(scores, 0.001) is None


def test_rejection_spares_the_digits() -> None:
    """At most 0.1% of clean and 1% of other digits are taken for none, and outliers must show."""
    scores = draw_populations(5000, 0)
    below = choose_rejection(scores)
    assert below is not None
    assert (scores["clean"].confidence < below).mean() <= 0.001
    assert (scores["shifted"].confidence < below).mean() <= 0.01
    outliers = Judged(np.full(100, 0.01, np.float32), np.zeros(100, np.bool_))
    sure = Judged(np.full(5000, 0.99, np.float32), np.ones(5000, np.bool_))
    doubted = Judged(np.linspace(0.1, 1, 5000, dtype=np.float32), np.ones(5000, np.bool_))
    for name, share in (("clean", 0.001), ("scanned", 0.01), ("shifted", 0.01)):
        others = {**dict.fromkeys(scores, sure), name: doubted, "outliers": outliers}
        below = choose_rejection(others)
        assert below is not None
        assert 0.5 * share <= (doubted.confidence < below).mean() <= share
    hidden = Judged(np.full(100, 0.9, np.float32), np.zeros(100, np.bool_))
    assert choose_rejection(scores | {"outliers": hidden}) is None
