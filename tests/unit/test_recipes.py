from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_ocr import DigitClassifier, cli
from mnist_ocr.digits.calibration import Calibration
from mnist_ocr.digits.model import save_model
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import Dataset, load_dataset
from mnist_ocr.training.listing import format_recipes, summarize_recipes
from mnist_ocr.training.loop import build_loop
from mnist_ocr.training.recipes import AUGMENTATIONS, RECIPES


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DatasetConfig(dataset="digits"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_saves_reloads_and_reads(
    name: str, digits: Dataset, tmp_path: Path
) -> None:
    """A few steps are enough to read most digits, and the saved model reads the same ones."""
    recipe = replace(RECIPES[name], num_epochs=2, min_steps_per_epoch=40, schedule="linear")
    loop = build_loop(recipe, digits, seed=0, device=torch.device("cpu"))
    *_, last = loop.run()
    assert last.train_loss < 2.2
    save_model(
        str(tmp_path),
        loop.ema_network,
        architecture=recipe.architecture,
        mean=loop.mean,
        std=loop.std,
        calibration=Calibration(),
        metrics={},
        training={},
        data={},
    )
    predictions = DigitClassifier.load(str(tmp_path)).predict(digits.test.images)
    logits = loop.compute_logits(digits.test.images)
    assert (predictions.digit == logits.argmax(1)).all()
    assert (predictions.digit == digits.test.labels).mean() > 0.3


def test_strength_multiplies_the_distortion() -> None:
    """All limits, and none where there is no distortion."""
    recipe = replace(RECIPES["cnn"], augmentation_strength=0.5)
    full = AUGMENTATIONS["full"]
    assert full is not None
    limits = {n: value / 2 for n, value in vars(full).items() if isinstance(value, int | float)}
    assert recipe.build_augmentation() == replace(full, **limits)
    assert replace(recipe, augmentation="none").build_augmentation() is None


def test_normalization_is_the_recipes(digits: Dataset) -> None:
    """Mean 0 and deviation 1 over the training images, -1 to 1, or 0 to 1."""
    pixels = digits.train.images / 255
    wanted = {
        "dataset": (pixels.mean(), pixels.std()),
        "symmetric": (0.5, 0.5),
        "unit": (0.0, 1.0),
    }
    for normalization, scale in wanted.items():
        recipe = replace(RECIPES["mlp-128"], normalization=normalization)
        loop = build_loop(recipe, digits, seed=0, device=torch.device("cpu"))
        np.testing.assert_allclose((loop.mean, loop.std), scale, rtol=1e-6)


def test_names_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """For a loop of the shell."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["recipes", "--names"])
    assert capsys.readouterr().out.split("\n") == [*RECIPES, ""]


def test_list_says_what_each_recipe_is_and_has_reached() -> None:
    """A line each: network, size, and the accuracy that was measured, for every one."""
    summaries = summarize_recipes()
    assert [summary.recipe for summary in summaries] == list(RECIPES)
    table = format_recipes(summaries).splitlines()
    assert max(map(len, table)) <= 120
    line = next(line for line in table if line.startswith("mlp-128 "))
    assert "101,770" in line
    assert "0.10" in line
    for summary in summaries:
        assert summary.num_seeds >= 3
        assert summary.test_accuracy is not None
