"""How weights follow gradients: the optimiser, and its learning rate over the run."""

import math

import torch
from torch import nn

from mnist_ocr.training.recipes import Recipe

WARMUP = 0.3
"""Share of a one-cycle run in which the learning rate rises."""


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the recipe's optimiser, one fused kernel a step."""
    parameters = network.parameters()
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=recipe.momentum, weight_decay=decay, fused=True
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay, fused=True)


def compute_learning_rate(recipe: Recipe, progress: float) -> float:
    """The learning rate at a share of the run.

    One-cycle is Smith's (2018, super-convergence) with cosines: from 1/25 of the peak up to it,
    then down to 0.

    Args:
        recipe: Names the schedule and its highest rate.
        progress: Share of the steps taken, from 0 to 1.
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "linear":
        return recipe.learning_rate * (1 - progress)
    if progress < WARMUP:
        low, share = 1 / 25, progress / WARMUP
    else:
        low, share = 0.0, (1 - progress) / (1 - WARMUP)
    return recipe.learning_rate * (low + (1 - low) * (1 - math.cos(math.pi * share)) / 2)
