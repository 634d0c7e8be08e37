"""What the canonicaliser costs, what it leaves alone and what it makes of poor scans.

    .venv/bin/python benchmarks/canonicalize.py --data-root data --model-uri models/cnn

Times are the best of twenty, on one thread, for both views. Poor scans are made of MNIST's
validation images, dark ink on light paper; accuracy of either view alone is compared with that of
the same images as they are. With `--test`, they are made of its test images, and scikit-learn's
digits are read as well: for reporting, once. The last line of stdout is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from machine import describe_machine
from numpy.typing import NDArray

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.canonical import is_canonical
from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import load_dataset, load_digit_pages

Image = NDArray[np.uint8]
PAPER = {"light": "grad", "noise": 2.0}
FAMILIES: dict[str, dict[str, object]] = {
    "uneven light, JPEG 50, off-centre": {**PAPER, "jpeg": 50},
    "shadow": {"light": "shadow", "noise": 3.0, "jpeg": 50},
    "grain": {**PAPER, "noise": 12.0},
    "ruled lines": {**PAPER, "ruled": True, "fill": (0.4, 0.7)},
    "box": {**PAPER, "box": True, "fill": (0.4, 0.7)},
    "specks": {**PAPER, "num_specks": 8},
    "pencil": {**PAPER, "contrast": 30.0},
    "tight crop": {**PAPER, "fill": (1.0, 1.0)},
    "small on a large page": {**PAPER, "size": 256, "fill": (0.12, 0.3)},
    "28x28": {**PAPER, "size": 28},
    "28x28, noise": {"size": 28, "noise": 12.0},
    "28x28, ruled lines": {**PAPER, "size": 28, "ruled": True, "fill": (0.4, 0.7)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--model-uri", required=True)
    parser.add_argument("--num-images", type=int, default=1000, help="per family of scans")
    parser.add_argument("--test", action="store_true", help="use MNIST's test images")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    dataset = load_dataset(DatasetConfig(dataset="mnist", data_root=arguments.data_root))
    split = dataset.test if arguments.test else dataset.validation
    chosen = np.random.default_rng(1).permutation(len(split.labels))[: arguments.num_images]
    digits, labels = split.images[chosen], split.labels[chosen]
    classifier = DigitClassifier.load(arguments.model_uri, num_threads=1)

    def measure(pages: Sequence[Image], truth: NDArray[np.int64]) -> dict[str, float]:
        batch = prepare_images(pages, len(pages))
        views = {"canonical": batch.images, "raw": batch.raw}
        accuracy = {
            name: (classifier.logits(view).argmax(1) == truth)[batch.is_ok].sum() / len(pages)
            for name, view in views.items()
        }
        trust = float(np.median(batch.trust))
        result = {**accuracy, "blank": 1 - batch.is_ok.mean(), "trust": trust}
        return {name: round(float(value), 4) for name, value in result.items()}

    scans = {"as they are": measure(list(digits), labels)}
    empty = {}
    for name, options in FAMILIES.items():
        generator = np.random.default_rng(7)
        scans[name] = measure([draw_page(im, generator, **options) for im in digits], labels)
        nothing = np.zeros((28, 28), np.uint8)
        pages = [draw_page(nothing, generator, **options) for _ in range(200)]
        empty[name] = measure(pages, np.full(200, -1))
    for size in (8, 12, 16, 20):
        pages = [shrink_ink(digit, size) for digit in digits]
        scans[f"{size}x{size}, filled by ink"] = measure(pages, labels)
    for name, result in scans.items():
        blank = f" · empty pages: {empty[name]}" if name in empty else ""
        print(f"{name}: {result}{blank}", file=sys.stderr)
    document = {
        "machine": describe_machine(),
        "split": "test" if arguments.test else "validation",
        "mnist_unchanged": float(is_canonical(split.images).mean()),
        "scans": scans,
        "empty_pages": empty,
        "times_us": measure_times(split.images),
    }
    if arguments.test:
        parts = zip(*load_digit_pages().values(), strict=True)
        uci_pages, uci_labels = (np.concatenate(arrays) for arrays in parts)
        document["uci_digits"] = measure(list(uci_pages), uci_labels)
    print(json.dumps(document))


def measure_times(images: Image) -> dict[str, float]:
    """Microseconds an image for both views: MNIST's own, and pages of several sizes."""
    many = images[:2000]
    pngs = [cv2.imencode(".png", image)[1].tobytes() for image in many]
    times = {
        "28x28 of MNIST": best_us(lambda: prepare_images(list(many), 2000), 2000),
        "28x28 of MNIST, PNGs": best_us(lambda: prepare_images(pngs, 2000), 2000),
    }
    generator = np.random.default_rng(7)
    pages = {"28x28 of MNIST, moved": [np.roll(image, 2, 0) for image in many[:50]]}
    for size in (28, 64, 128, 256, 1024):
        options = {**PAPER, "size": size}
        pages[f"{size}x{size} scan"] = [draw_page(im, generator, **options) for im in many[:50]]
    for name, some in pages.items():
        times[name] = best_us(lambda some=some: prepare_images(some, len(some)), len(some))
    return {name: round(value, 2) for name, value in times.items()}


def best_us(function: Callable[[], object], count: int) -> float:
    """The best of twenty runs, in microseconds for each of `count` images."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) / count * 1e6


def draw_page(
    digit: Image,
    generator: np.random.Generator,
    *,
    size: int | None = None,
    light: str = "grad",
    noise: float = 2.0,
    jpeg: int | None = None,
    ruled: bool = False,
    box: bool = False,
    num_specks: int = 0,
    contrast: float | None = None,
    fill: tuple[float, float] = (0.45, 0.9),
) -> Image:
    """A (28, 28) digit in dark ink on a light page of `size` pixels a side, or of 64 to 256."""
    size = size or int(generator.integers(64, 257))
    ink = draw_ink(digit, size, fill, 0.2 if ruled or box else 1.0, generator)
    thickness = max(1, size // 64)
    if ruled:
        step = int(size * generator.uniform(0.3, 0.6))
        for y in range(int(generator.integers(0, step)), size, step):
            cv2.line(
                ink, (0, y), (size, y + round(0.01 * size)), generator.uniform(0.4, 1), thickness
            )
    if box:
        inset = int(generator.integers(0, 1 + size // 20))
        corner = size - 1 - inset
        cv2.rectangle(ink, (inset, inset), (corner, corner), generator.uniform(0.5, 1), thickness)
    for _ in range(num_specks if digit.any() else 0):
        x, y = generator.integers(0, size, 2).tolist()
        cv2.circle(ink, (x, y), int(generator.uniform(0.3, 1.5) * size / 64), 1.0, -1)
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle = generator.uniform(0, 2 * np.pi, 2)
    lit = 1 - generator.uniform(0.1, 0.45) * (np.cos(angle[0]) * x + np.sin(angle[0]) * y + 0.5)
    if light == "shadow":
        depth = np.cos(angle[1]) * x + np.sin(angle[1]) * y - generator.uniform(-0.25, 0.25)
        lit *= 1 - generator.uniform(0.2, 0.5) / (1 + np.exp(-depth * generator.uniform(8, 60)))
    contrast = contrast or generator.uniform(90, 180)
    coarse = generator.normal(0, noise, (1 + size // 5,) * 2).astype(np.float32)
    texture = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    page = (generator.uniform(200, 245) - contrast * ink) * lit + texture
    page = np.clip(page + generator.normal(0, noise, page.shape), 0, 255).astype(np.uint8)
    if jpeg:
        encoded = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, jpeg])[1]
        page = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    return np.asarray(page, np.uint8)


def shrink_ink(digit: Image, size: int) -> Image:
    """The digit's box, square, as `size` pixels a side of 17 grey levels: bright on black."""
    left, top, width, height = cv2.boundingRect(digit)
    longer = max(width, height)
    box = np.zeros((longer, longer), np.float32)
    above, before = (longer - height) // 2, (longer - width) // 2
    box[above : above + height, before : before + width] = digit[
        top : top + height, left : left + width
    ]
    small = cv2.resize(box, (size, size), interpolation=cv2.INTER_AREA)
    return (np.rint(small / 255 * 16) * 255 / 16).astype(np.uint8)


def draw_ink(
    digit: Image,
    size: int,
    fill: tuple[float, float],
    spread: float,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """The digit, enlarged, with sharp edges, off-centre: (size, size) float32 from 0 to 1."""
    ink = np.zeros((size, size), np.float32)
    share = generator.uniform(*fill)
    if not digit.any():
        return ink
    left, top, width, height = cv2.boundingRect(digit)
    crop = digit[top : top + height, left : left + width].astype(np.float32) / 255
    scale = size * share / max(width, height)
    if scale > 1.5:
        crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        crop = cv2.GaussianBlur(crop, (0, 0), 0.4 * scale)
        crop = 1 / (1 + np.exp(-(crop - 0.45) * (6 + 2 * scale)))
        crop[crop < 0.1] = 0
    else:
        crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    crop = np.clip(crop, 0, 1)[:size, :size]
    height, width = crop.shape
    top, left = (
        round((size - side) / 2 * (1 + spread * generator.uniform(-1, 1)))
        for side in (height, width)
    )
    ink[top : top + height, left : left + width] = crop
    return ink


if __name__ == "__main__":
    main()
