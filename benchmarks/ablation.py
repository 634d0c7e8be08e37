"""What each family of corruptions, and the canonicaliser, is worth: each left out in turn.

    mnist-ocr train --recipe trusted --num-epochs 6 --model-uri models/heavy
    for family in distortion thickness strokes occlusion convolution background resolution \
        blur jitter tone noise; do
      mnist-ocr train --recipe trusted --num-epochs 6 --augmentation heavy-no-$family \
        --model-uri models/heavy-no-$family
    done
    .venv/bin/python benchmarks/ablation.py --data-root data --models models

All of it on MNIST's validation images, of writers held out, but for scikit-learn's 1,797 digits.
Every family is left out of training only: the views' weights are fitted on all of them.
The last line of stdout is JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from canonicalize import FAMILIES, draw_page
from machine import describe_machine
from numpy.typing import NDArray

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import Split, load_dataset, load_digit_pages
from mnist_ocr.training.recipes import CORRUPTION_FAMILIES
from mnist_ocr.training.shifts import corrupt_images, shift_images

SCAN = FAMILIES["uneven light, JPEG 50, off-centre"]
COLUMNS = ("clean", "scans", "UCI digits", "shifted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--models", type=Path, required=True, help="folder of heavy, heavy-no-*")
    arguments = parser.parse_args()
    dataset = load_dataset(DatasetConfig(dataset="mnist", data_root=arguments.data_root))
    trials = draw_trials(dataset.validation)
    everything = DigitClassifier.load(str(arguments.models / "heavy"))
    rows = {"nothing": measure(everything, trials)}
    for name, read in WITHOUT.items():
        rows[name] = {
            column: share_right(read(everything, pages), labels)
            for column, (pages, labels) in trials.items()
        }
    for family in CORRUPTION_FAMILIES:
        without = DigitClassifier.load(str(arguments.models / f"heavy-no-{family}"))
        own = {"own family": draw_family(dataset.validation, family)}
        rows[family] = measure(without, trials | own)
        rows[family]["own family, all trained"] = measure(everything, own)["own family"]
        print(family, rows[family], file=sys.stderr)
    print_table(rows)
    print(json.dumps({"machine": describe_machine(), "rows": rows}))


Pages = Sequence[NDArray[np.uint8]]


def measure_left_out(models: Path, split: Split) -> list[float]:
    """Accuracy on each family of the model that was trained without it, of those there are."""
    folders = {family: models / f"heavy-no-{family}" for family in CORRUPTION_FAMILIES}
    return [
        measure(DigitClassifier.load(str(folder)), {"": draw_family(split, family)})[""]
        for family, folder in folders.items()
        if folder.is_dir()
    ]


def draw_family(split: Split, family: str) -> tuple[Pages, NDArray[np.int64]]:
    """Every image, corrupted by one family."""
    return list(corrupt_images(split.images, family, seed=7)), split.labels


def draw_trials(split: Split) -> dict[str, tuple[Pages, NDArray[np.int64]]]:
    """Pages and their labels, by column."""
    rng = np.random.default_rng(7)
    uci = [np.concatenate(arrays) for arrays in zip(*load_digit_pages().values(), strict=True)]
    return {
        "clean": (list(split.images), split.labels),
        "scans": ([draw_page(image, rng, **SCAN) for image in split.images], split.labels),
        "UCI digits": (list(uci[0]), uci[1]),
        "shifted": (list(shift_images(split.images, seed=7)), split.labels),
    }


def measure(
    classifier: DigitClassifier, trials: dict[str, tuple[Pages, NDArray[np.int64]]]
) -> dict[str, float]:
    """Share of the pages read rightly, by column."""
    return {
        name: share_right(classifier.predict(list(pages)).digit, labels)
        for name, (pages, labels) in trials.items()
    }


def share_right(digits: NDArray[np.integer], labels: NDArray[np.int64]) -> float:
    return float((digits == labels).mean())


def read_resized(classifier: DigitClassifier, pages: Pages) -> NDArray[np.int64]:
    """Without the canonicaliser: each page resized to 28x28, dark paper or light as it is."""
    methods = [cv2.INTER_AREA if len(page) > 28 else cv2.INTER_LINEAR for page in pages]
    images = [
        cv2.resize(page, (28, 28), interpolation=method)
        for page, method in zip(pages, methods, strict=True)
    ]
    return classifier.logits(np.stack(images)).argmax(1)


def read_canonical(classifier: DigitClassifier, pages: Pages) -> NDArray[np.int64]:
    """By the canonical view alone."""
    return classifier.logits(prepare_images(pages, len(pages)).images).argmax(1)


def read_raw(classifier: DigitClassifier, pages: Pages) -> NDArray[np.int64]:
    """By the raw view alone."""
    return classifier.logits(prepare_images(pages, len(pages)).raw).argmax(1)


WITHOUT = {
    "canonicaliser (merely resized)": read_resized,
    "raw view": read_canonical,
    "canonical view": read_raw,
}
"""What is left out of reading -> how pages are then read."""


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """A line for each thing left out."""
    columns = (*COLUMNS, "own family", "own family, all trained")
    print("| left out | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name, row in rows.items():
        cells = [f"{row[column]:.2%}" if column in row else "" for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
