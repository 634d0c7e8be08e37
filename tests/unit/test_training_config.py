import subprocess
import sys
from typing import Any

import pytest

from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import UsageError
from mnist_ocr.training.config import TrainConfig
from mnist_ocr.training.recipes import RECIPES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": "vgg"}, r"'vgg'.*mlp-128, cnn"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"num_workers": 3, "batch_size": 128}, r"128 images .* 3 workers"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    """A value that cannot work is named, with what to pass instead, before anything is loaded."""
    with pytest.raises(UsageError, match=message):
        TrainConfig(**fields)


def test_own_values_replace_the_recipes() -> None:
    """What the config leaves out comes from the recipe."""
    recipe = TrainConfig(recipe="cnn", num_epochs=2, learning_rate=0.5).build_recipe()
    assert (recipe.num_epochs, recipe.learning_rate) == (2, 0.5)
    assert recipe.batch_size == RECIPES["cnn"].batch_size


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
