import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnist_ocr.training import exploration
from mnist_ocr.training.config import ExploreConfig
from mnist_ocr.training.datasets import Dataset, Split
from mnist_ocr.training.exploration import Exploration, explore


def build_split(labels: list[int], value: int) -> Split:
    """Images that are white in their upper half, or as bright as `value`."""
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, :14] = value
    return Split(images, np.array(labels))


@pytest.fixture
def explored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exploration:
    """A dataset of digits 1, 2 and 9; three objects of it could not be read."""
    dataset = Dataset(
        name="scans",
        train=build_split([1] * 6 + [2] * 3, 255),
        validation=build_split([1, 2], 0),
        test=build_split([1, 9], 0),
        split_method="stratified",
        skipped={"not_an_image": 2, "blank": 1},
    )
    monkeypatch.setattr(exploration, "load_dataset", lambda config: dataset)
    monkeypatch.chdir(tmp_path)
    return explore(ExploreConfig(dataset="s3://bucket/scans/"))


def test_counts_are_per_split_and_digit(explored: Exploration) -> None:
    """Each split has a count for each of the ten digits."""
    assert explored.counts == {
        "train": (0, 6, 3, 0, 0, 0, 0, 0, 0, 0),
        "validation": (0, 1, 1, 0, 0, 0, 0, 0, 0, 0),
        "test": (0, 1, 0, 0, 0, 0, 0, 0, 0, 1),
    }


def test_pixels_are_those_of_the_training_images(explored: Exploration) -> None:
    """Mean and deviation are on a scale from 0 to 1, and no other split changes them."""
    assert (explored.shape, explored.dtype) == ((28, 28), "uint8")
    assert explored.mean == pytest.approx(0.5)
    assert explored.deviation == pytest.approx(0.5)


def test_format_is_a_table(explored: Exploration) -> None:
    """A row for each digit and the total, then what else there is to know."""
    lines = explored.format().splitlines()
    assert lines[0].split() == ["digit", "train", "validation", "test", "share"]
    assert lines[2].split() == ["1", "6", "1", "1", "61.54%"]
    assert lines[4].split() == ["3", "0", "0", "0", "0.00%"]
    assert lines[11].split() == ["total", "9", "2", "2", "100.00%"]
    assert len({len(line) for line in lines[:12]}) == 1
    assert "split stratified" in lines[12]
    assert "mean 0.5000, deviation 0.5000" in lines[12]
    assert lines[13:] == ["skipped 3: 2 not_an_image, 1 blank", explored.picture]


def test_exploration_is_json(explored: Exploration) -> None:
    """The result survives JSON unchanged, but for tuples."""
    result = json.loads(json.dumps(asdict(explored)))
    assert result["counts"]["train"] == list(explored.counts["train"])
    assert result["skipped"] == explored.skipped


def test_picture_lands_in_a_folder_of_the_datasets_name(
    explored: Exploration, tmp_path: Path
) -> None:
    """By default below `explore/`; it is a picture."""
    assert explored.picture == str(tmp_path / "explore" / "scans" / "samples.png")
    assert len(np.unique(cv2.imread(explored.picture))) > 10


@pytest.mark.usefixtures("explored")
def test_picture_lands_where_asked(tmp_path: Path) -> None:
    """`output_uri` is the folder."""
    result = explore(ExploreConfig(dataset="scans", output_uri=str(tmp_path / "out")))
    assert result.picture == str(tmp_path / "out" / "samples.png")
    assert Path(result.picture).exists()
