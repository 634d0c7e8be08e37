"""Pages without a digit: letters, never seen in training; textures and paper of another make."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
from canonicalize import PAPER, draw_page
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ACEFHKMNPRTUVWXYacdefhkmnprtuvwxy"
"""Without look-alikes of digits: O Q D o 0, I J L i j l 1, Z z 2, B 8, S s 5, G b 6, g q 9."""

FONTS = (
    "DejaVuSans",
    "DejaVuSerif-Italic",
    "DejaVuSansMono-Bold",
    "cmr10",
    "cmtt10",
    "STIXGeneral",
)
"""Those that come with matplotlib."""


def draw_letters(count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Letters in dark print on light paper, 64 x 64 pixels, slightly turned."""
    rng = np.random.default_rng(seed)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pages = []
    for _ in range(count):
        size = int(rng.integers(28, 50))
        font = ImageFont.truetype(folder / f"{rng.choice(FONTS)}.ttf", size)
        page = Image.new("L", (64, 64), int(rng.integers(200, 256)))
        letter = str(rng.choice(list(LETTERS)))
        ImageDraw.Draw(page).text((32, 32), letter, int(rng.integers(0, 80)), font, anchor="mm")
        turned = page.rotate(
            rng.uniform(-12, 12), Image.Resampling.BICUBIC, fillcolor=page.getpixel((0, 0))
        )
        pages.append(np.asarray(turned, np.uint8))
    return pages


def draw_textures(count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Chequers, hatchings, cracks and grain, 64 x 64 pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    pages = []
    for i in range(count):
        period = rng.integers(4, 24)
        chequers = ((x // period + y // period) % 2) * 255.0
        hatching = 255.0 * (np.abs((x * rng.uniform(0.2, 1) + y) % period - period / 2) < 2)
        smooth = cv2.GaussianBlur(rng.normal(0, 1, (64, 64)), (0, 0), rng.uniform(1, 5))
        cracks = 255.0 * (np.abs(smooth) < 0.15 * smooth.std())
        grain = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
        texture = (chequers, hatching, cracks, grain)[i % 4]
        contrast = rng.uniform(0.3, 0.9)
        page = (
            rng.uniform(0, 255 * (1 - contrast)) + contrast * texture + rng.normal(0, 4, (64, 64))
        )
        pages.append(np.clip(page, 0, 255).astype(np.uint8))
    return pages


def draw_blanks(count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Empty paper with uneven light, grain and shadows, 64 to 256 pixels a side."""
    rng = np.random.default_rng(seed)
    empty = np.zeros((28, 28), np.uint8)
    kinds = ({**PAPER, "jpeg": 50}, {"light": "shadow", "noise": 3.0, "jpeg": 50}, {"noise": 10.0})
    return [draw_page(empty, rng, **kinds[i % len(kinds)]) for i in range(count)]
