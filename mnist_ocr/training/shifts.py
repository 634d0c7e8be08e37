"""Shifted copies of images, and synthetic non-digits, for calibration and for measuring.

Made by the corruptions that train a robust network, at their training strength.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnist_ocr.training.augmentation import MAX_HEAVY_STRENGTH, BatchAugmenter
from mnist_ocr.training.batches import scale
from mnist_ocr.training.corruptions import CORRUPTIONS
from mnist_ocr.training.distortion import Distorter
from mnist_ocr.training.draws import Draw, seed_generator
from mnist_ocr.training.outliers import draw_outliers
from mnist_ocr.training.recipes import AUGMENTATIONS

Images = NDArray[np.uint8]

NOT_IN_TRAINING = (0, 0, 1)
"""Put after a seed, and before the number of a stream from 1, it gives other random numbers than
those that augment training images."""


def shift_images(images: Images, seed: int) -> Images:
    """Let a random mixture of all corruptions befall every image: (N, 28, 28) uint8."""
    heavy = AUGMENTATIONS["heavy"]
    assert heavy is not None
    augment = BatchAugmenter(replace(heavy, heavy_share=1.0), torch.device("cpu"))
    numbers = (seed, *NOT_IN_TRAINING, 1)
    return _to_uint8(augment(scale(torch.tensor(images)), numbers, batch_size=len(images)))


def corrupt_images(images: Images, family: str, seed: int) -> Images:
    """Let one family of corruptions befall every image: (N, 28, 28) uint8."""
    draw = _draw(len(images), seed, 2)
    inputs = scale(torch.tensor(images))
    if family == "distortion":
        limits = AUGMENTATIONS["heavy"]
        assert limits is not None
        strength = draw.uniform(1, MAX_HEAVY_STRENGTH)
        return _to_uint8(Distorter(limits, inputs.device)(inputs, draw, strength))
    return _to_uint8(CORRUPTIONS[family](inputs, draw))


def make_outliers(images: Images, count: int, seed: int) -> Images:
    """Make synthetic non-digits, some of them out of digits: (count, 28, 28) uint8."""
    rng = np.random.default_rng(seed)
    first, second = (
        scale(torch.tensor(images[rng.integers(0, len(images), count)])) for _ in range(2)
    )
    return _to_uint8(draw_outliers(first, second, _draw(count, seed, 3)))


def _draw(count: int, seed: int, stream: int) -> Draw:
    generator = torch.Generator()
    seed_generator(generator, seed, *NOT_IN_TRAINING, stream)
    return Draw(generator, count, slice(None))


def _to_uint8(images: Tensor) -> Images:
    pixels: Images = (images[:, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels
