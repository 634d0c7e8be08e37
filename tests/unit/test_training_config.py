import math
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import UsageError
from mnist_ocr.training.config import RecipeOverrides, TrainConfig
from mnist_ocr.training.recipes import RECIPES, Recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": "vgg"}, r"'vgg'.*mlp-adam, .*, cnn"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"num_workers": "2:1"}, "num_workers is 2:1"),
        ({"num_workers": "1:2:3"}, "num_workers is 1:2:3"),
        ({"num_workers": "many"}, "num_workers is many"),
        ({"seed": -1}, "seed is -1"),
        ({"num_workers": 200}, r"128 images .* 200 workers"),
        ({"dataset": "scans", "mnist_weight": 1.0}, "mnist_weight is 1.0"),
        ({"mnist_weight": 0.5}, "Pass your --dataset"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    """A value that cannot work is named, with what to pass instead, before anything is loaded."""
    with pytest.raises(UsageError, match=message):
        TrainConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"label_smoothing": math.nan}, "label_smoothing is nan"),
        ({"augmentation_strength": -1.0}, "augmentation_strength is -1.0"),
        ({"min_steps_per_epoch": 0}, "min_steps_per_epoch is 0"),
        ({"optimizer": "lion"}, "optimizer is 'lion'. Choose one of: adam, adamw, sgd"),
    ],
)
def test_override_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    """So is a value in place of the recipe's."""
    with pytest.raises(UsageError, match=message):
        TrainConfig(override=RecipeOverrides(**fields))


def test_every_field_of_a_recipe_has_a_flag() -> None:
    """In the same order, and off unless given."""
    assert [f.name for f in fields(RecipeOverrides)] == [f.name for f in fields(Recipe)]
    assert set(vars(RecipeOverrides()).values()) == {None}


def test_own_values_replace_the_recipes() -> None:
    """What the config leaves out comes from the recipe."""
    override = RecipeOverrides(num_epochs=2, learning_rate=0.5)
    recipe = TrainConfig(recipe="cnn", override=override).build_recipe()
    assert recipe == replace(RECIPES["cnn"], num_epochs=2, learning_rate=0.5)
    assert override.to_flags() == ["--learning-rate", "0.5", "--num-epochs", "2"]


@pytest.mark.parametrize(("value", "ends"), [(3, (3, 3)), ("3", (3, 3)), ("1:4", (1, 4))])
def test_number_of_workers_may_be_a_range(value: int | str, ends: tuple[int, int]) -> None:
    """A number is both ends of it."""
    assert TrainConfig(num_workers=value).worker_range == ends


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("mnist", "mnist"), ("s3://bucket/scans/2026/", "2026"), ("a/b.parquet", "b.parquet")],
)
def test_dataset_is_named_by_its_last_part(dataset: str, name: str) -> None:
    """Default folders are called so."""
    assert TrainConfig(dataset=dataset).dataset_name == name


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_configured_and_built(name: str) -> None:
    """Each recipe passes its own config and names a network that exists."""
    build_network(TrainConfig(recipe=name).build_recipe().architecture)


def test_config_loads_neither_torch_nor_ray() -> None:
    """`--help` stays instant."""
    code = (
        "import sys, mnist_ocr.training.config; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
