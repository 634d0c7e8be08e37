from dataclasses import replace

import pytest
import torch

from mnist_ocr.training.optimization import build_optimizer, compute_learning_rate
from mnist_ocr.training.recipes import RECIPES


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        ("constant", {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
        ("linear", {0.0: 1.0, 0.25: 0.75, 1.0: 0.0}),
        ("one-cycle", {0.0: 0.04, 0.15: 0.52, 0.3: 1.0, 0.65: 0.5, 1.0: 0.0}),
    ],
)
def test_learning_rate_follows_its_schedule(schedule: str, points: dict[float, float]) -> None:
    """At a share of the run the rate is this share of the recipe's."""
    recipe = replace(RECIPES["cnn"], schedule=schedule, learning_rate=0.02)
    rates = {progress: compute_learning_rate(recipe, progress) / 0.02 for progress in points}
    assert rates == pytest.approx(points, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mlp5-sgd", torch.optim.SGD), ("mlp-adam", torch.optim.Adam), ("cnn", torch.optim.AdamW)],
)
def test_optimizer_is_the_recipes(name: str, kind: type) -> None:
    """Kind, rate, momentum and decay."""
    optimizer = build_optimizer(torch.nn.Linear(2, 2), RECIPES[name])
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert group["lr"] == RECIPES[name].learning_rate
    assert group["weight_decay"] == RECIPES[name].weight_decay
    assert group.get("momentum", 0.9) == 0.9
