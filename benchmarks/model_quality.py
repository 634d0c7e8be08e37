"""How far a label can be trusted: the shipped model and five seeds of its recipe, side by side.

    for seed in 0 1 2 3 4; do
      mnist-ocr train --recipe trusted --seed $seed --model-uri models/trusted-$seed
      mnist-ocr train --recipe tiny --seed $seed --model-uri models/tiny-$seed
    done
    .venv/bin/python benchmarks/model_quality.py --data-root data --models models

Every model reads MNIST's test images, what is made of them, scikit-learn's digits and pages
without a digit, through `DigitClassifier`, as a user's images are. What `--models` does not hold
is left out; how to train what the row of families left out needs, `ablation.py` says. The last line
of stdout is JSON.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ablation import measure_left_out
from canonicalize import FAMILIES, draw_page
from machine import describe_machine
from non_digits import draw_blanks, draw_letters, draw_textures
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from mnist_ocr.digits.classifier import DigitClassifier, Predictions
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import Split, load_dataset, load_digit_pages
from mnist_ocr.training.scores import (
    compute_scores,
    count_errors,
    judge_predictions,
    select_most_confident,
)
from mnist_ocr.training.shifts import shift_images

WRONG_LABELS = (
    *(947, 1621, 1901, 2462, 2597, 3558, 5937, 6651, 6783, 9729),
    *(2654, 3520, 9679, 2130, 8527),
)
"""MNIST test images with a wrong label, no digit, or people in doubt (Northcutt et al. 2021)."""

NUM_NON_DIGITS = 1000
"""Pages of each kind."""

TARGETS = {
    "accuracy": (
        "MNIST test, accuracy (tiny)",
        "99.65 (99.30)",
        "99.75 (99.50)",
        "99.80 (99.60)",
    ),
    "accuracy_set_aside": ("the same without the 15 known wrong labels", "", "", ""),
    "uci_accuracy": ("UCI digits, never trained on", "98.0", "98.7", "99.3"),
    "scan_loss": ("lost on dark ink, uneven light, JPEG 50, off-centre", "0.3", "0.15", "0.05"),
    "ece": ("ECE on MNIST test", "0.3", "0.15", "0.05"),
    "shift_ece": ("ECE on shifted data", "4", "3", "1.5"),
    "shift_accuracy": ("accuracy on shifted data", "", "", ""),
    "errors_99": ("errors among the most confident 99%", "5", "2", "0"),
    "errors_99_set_aside": ("the same without the 15", "", "", ""),
    "errors_95": ("errors among the most confident 95%", "", "", ""),
    "auroc": ("AUROC against pages without a digit", "0.95", "0.98", "0.995"),
    "auroc_letters": ("of them letters", "", "", ""),
    "auroc_textures": ("of them textures", "", "", ""),
    "auroc_blanks": ("of them blank paper", "", "", ""),
    "accepted": ("accepted at a risk of 0.1%", "", "", ""),
    "accepted_errors": ("errors among those", "", "", ""),
    "accepted_others": ("pages without a digit accepted at it, of 3,000", "", "", ""),
}
"""Figure -> what it is, and what it must be, should be, and would be at best."""

COUNTS = ("errors_99", "errors_99_set_aside", "errors_95", "accepted_errors", "accepted_others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--models", type=Path, help="folder of trusted-*, tiny-*")
    arguments = parser.parse_args()
    dataset = load_dataset(DatasetConfig(dataset="mnist", data_root=arguments.data_root))
    test, trials = dataset.test, draw_trials(dataset.test)
    shipped = measure(DigitClassifier.load(), test, trials)
    models = {"trusted": [], "tiny": []}
    for name, rows in models.items():
        found = arguments.models.glob(f"{name}-*/model.json") if arguments.models else ()
        for folder in sorted(path.parent for path in found):
            rows.append(measure(DigitClassifier.load(str(folder)), test, trials))
            print(folder.name, rows[-1], file=sys.stderr)
    print(f"| | must | aim | moonshot | shipped | {len(models['trusted'])} seeds | tiny |")
    print("|---|---|---|---|---|---|---|")
    for key, (title, *targets) in TARGETS.items():
        cells = [format_value(key, [shipped[key]])]
        cells += [format_value(key, [row[key] for row in rows]) for rows in models.values()]
        print(f"| {title} | {' | '.join(targets + cells)} |")
    left_out = measure_left_out(arguments.models, dataset.validation) if arguments.models else []
    if left_out:
        found = f"{min(left_out):.1%} / {statistics.mean(left_out):.1%}"
        title = f"{len(left_out)} families left out of training: the worst / the mean"
        print(f"| {title} | 85 / 95 | 92 / 97.5 | 96 / 98.5 | | {found} | |")
    figures = {"shipped": shipped, **models, "left_out": left_out}
    print(json.dumps({"machine": describe_machine(), **figures}))


def draw_trials(test: Split) -> dict[str, Any]:
    """What every model is asked about beside the test images themselves."""
    rng = np.random.default_rng(7)
    scan = FAMILIES["uneven light, JPEG 50, off-centre"]
    uci = [np.concatenate(arrays) for arrays in zip(*load_digit_pages().values(), strict=True)]
    return {
        "scans": [draw_page(image, rng, **scan) for image in test.images],
        "uci": uci,
        "shifted": shift_images(test.images, seed=7),
        "letters": draw_letters(NUM_NON_DIGITS, 7),
        "textures": draw_textures(NUM_NON_DIGITS, 7),
        "blanks": draw_blanks(NUM_NON_DIGITS, 7),
    }


def measure(classifier: DigitClassifier, test: Split, trials: dict[str, Any]) -> dict[str, float]:
    """Every figure of one model, by the keys of `TARGETS`."""
    clean = classifier.predict(test.images)
    scores = compute_scores(test.labels, clean)
    is_right = clean.digit == test.labels
    is_sound = np.ones(len(test.labels), np.bool_)
    is_sound[list(WRONG_LABELS)] = False
    shifted = classifier.predict(trials["shifted"])
    shift_scores = compute_scores(test.labels, shifted)
    pages, labels = trials["uci"]
    threshold = classifier.model.info.calibration.find_threshold(0.001)
    least = threshold.confidence if threshold else np.inf
    is_accepted = (clean.status == "ok") & (clean.confidence >= least)
    scans = (classifier.predict(trials["scans"]).digit == test.labels).mean()
    kinds = {kind: trust(classifier, trials[kind]) for kind in ("letters", "textures", "blanks")}
    digits = trust(classifier, test.images)
    return {
        "accuracy": float(is_right.mean()),
        "accuracy_set_aside": float(is_right[is_sound].mean()),
        "uci_accuracy": float((classifier.predict(list(pages)).digit == labels).mean()),
        "scan_loss": float(is_right.mean() - scans),
        "ece": scores.ece or 0.0,
        "shift_ece": shift_scores.ece or 0.0,
        "shift_accuracy": float((shifted.digit == test.labels).mean()),
        **{f"errors_{each.coverage}": each.num_errors for each in scores.selective},
        "errors_99_set_aside": count_most_confident(clean, test.labels, is_sound),
        "auroc": auroc(digits, np.concatenate(list(kinds.values()))),
        **{f"auroc_{kind}": auroc(digits, scores) for kind, scores in kinds.items()},
        "accepted": float(is_accepted.mean()),
        "accepted_errors": float((is_accepted & ~is_right).sum()),
        "accepted_others": float(sum((scores >= least).sum() for scores in kinds.values())),
    }


def count_most_confident(
    predictions: Predictions, labels: NDArray[np.int64], is_sound: NDArray[np.bool_]
) -> float:
    """Errors among the most confident 99% of the images whose label is beyond doubt."""
    confidences, is_right = judge_predictions(labels, predictions)
    errors = count_errors(confidences[is_sound], is_right[is_sound])
    return select_most_confident(errors)[0].num_errors


def trust(classifier: DigitClassifier, pages: Any) -> NDArray[np.float32]:
    """Confidence in each page; none in one that is blank."""
    return np.nan_to_num(classifier.predict(pages).confidence, nan=0.0)


def auroc(digits: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Probability that a digit is trusted more than what is none."""
    truth = np.r_[np.ones(len(digits)), np.zeros(len(others))]
    return float(roc_auc_score(truth, np.r_[digits, others]))


def format_value(key: str, values: Sequence[float]) -> str:
    """One value, or mean (standard deviation) of several."""
    if not values:
        return ""
    is_share = not (key in COUNTS or key.startswith("auroc"))
    factor, spec, unit = (
        (100, ".2f", "%") if is_share else (1, ".1f" if key in COUNTS else ".4f", "")
    )
    mean = f"{statistics.mean(values) * factor:{spec}}{unit}"
    if len(values) == 1:
        return mean
    return f"{mean} ({statistics.stdev(values) * factor:{spec}})"


if __name__ == "__main__":
    main()
