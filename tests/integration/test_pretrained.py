"""The model that comes with the package, on a folder such as users have."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import load_dataset
from tests.pages import draw_blank, draw_letter, draw_specks, photograph

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.test_data]
NUM_DIGITS = 100


@pytest.fixture(scope="module")
def rows(
    tmp_path_factory: pytest.TempPathFactory, test_data: Path, ray_session: None
) -> Mapping[str, pd.DataFrame]:
    """The rows of each sub-folder after labelling with no flag at all; `truth` where there is."""
    folder = tmp_path_factory.mktemp("pages")
    dataset = load_dataset(DatasetConfig(dataset="mnist", data_root=str(test_data)))
    images, truth = (array[:NUM_DIGITS] for array in dataset.validation)  # unseen in training
    rng = np.random.default_rng(0)
    pages = {
        "crops": [cv2.imencode(".png", image)[1].tobytes() for image in images],
        "photos": [photograph(image, rng) for image in images],
        "letters": [draw_letter(letter) for letter in "AEFHKMNPRWXaekmnrwx"],
        "blanks": [draw_blank(rng) for _ in range(20)],
        "specks": [draw_specks(rng) for _ in range(20)],
    }
    for kind, contents in pages.items():
        (folder / "scans" / kind).mkdir(parents=True)
        for i, content in enumerate(contents):
            (folder / "scans" / kind / f"{i:03d}.img").write_bytes(content)
    label(LabelConfig(str(folder / "scans"), str(folder / "out")))
    table = pd.read_parquet(folder / "out").sort_values("path")
    found = dict(list(table.groupby(table["path"].str.split("/").str[-2])))
    for kind in ("crops", "photos"):
        found[kind] = found[kind].assign(truth=truth)
    return found


@pytest.mark.parametrize(("kind", "most_errors"), [("crops", 1), ("photos", 2)])
def test_digits_are_read(rows: Mapping[str, pd.DataFrame], kind: str, most_errors: int) -> None:
    """Crops and photos of them are read; what is accepted, without a flag, is right."""
    digits = rows[kind]
    assert (digits["digit"] != digits["truth"]).sum() <= most_errors
    accepted = digits[digits["accepted"]]
    assert (accepted["digit"] == accepted["truth"]).all()
    assert len(accepted) >= 0.7 * NUM_DIGITS
    assert (digits["status"] == "ok").mean() >= 0.98


def test_letters_are_doubted(rows: Mapping[str, pd.DataFrame]) -> None:
    """None is accepted, many are no digit, and their confidence is far below a digit's."""
    letters = rows["letters"]
    assert not letters["accepted"].any()
    assert (letters["status"] == "not_a_digit").mean() >= 0.3
    assert letters["confidence"].median() < rows["photos"]["confidence"].quantile(0.05)


@pytest.mark.parametrize("kind", ["blanks", "specks"])
def test_empty_paper_is_no_digit(rows: Mapping[str, pd.DataFrame], kind: str) -> None:
    """Paper with nothing but light, grain and dust on it is blank, or at least no digit."""
    pages = rows[kind]
    assert set(pages["status"]) <= {"blank", "not_a_digit"}
    assert (pages["status"] == "blank").mean() >= (0.9 if kind == "blanks" else 0.5)
    assert not pages["accepted"].any()
