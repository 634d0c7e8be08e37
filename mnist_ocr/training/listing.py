"""The recipes as a table: what they are, what they cost, and what they were measured to reach."""

import json
from dataclasses import dataclass
from importlib.resources import files

from mnist_ocr.digits.networks import build_network, count_mmacs, count_parameters
from mnist_ocr.training.recipes import RECIPES

MEASURED = "measured.json"
"""Beside this module: what `benchmarks/recipes.py` has measured, by recipe."""


@dataclass(frozen=True)
class RecipeSummary:
    """A line of the table."""

    recipe: str
    architecture: str
    optimizer: str
    schedule: str
    num_epochs: int
    num_parameters: int
    mmacs: float
    """Millions of multiply-adds for one image."""
    test_accuracy: float | None
    """On MNIST, mean over the seeds measured; None for a recipe that was not measured."""
    test_accuracy_sd: float | None
    num_seeds: int


def summarize_recipes() -> list[RecipeSummary]:
    """Every recipe, in the order of the table."""
    measured = json.loads(files("mnist_ocr.training").joinpath(MEASURED).read_text())["recipes"]
    summaries = []
    for name, recipe in RECIPES.items():
        network = build_network(recipe.architecture)
        results = measured.get(name, {})
        summaries.append(
            RecipeSummary(
                recipe=name,
                architecture=recipe.architecture,
                optimizer=recipe.optimizer,
                schedule=recipe.schedule,
                num_epochs=recipe.num_epochs,
                num_parameters=count_parameters(network),
                mmacs=count_mmacs(network),
                test_accuracy=results.get("test_accuracy"),
                test_accuracy_sd=results.get("test_accuracy_sd"),
                num_seeds=results.get("num_seeds", 0),
            )
        )
    return summaries


def format_recipes(summaries: list[RecipeSummary]) -> str:
    """The table, for a terminal."""
    header = (
        f"{'recipe':<13} {'network':<38} {'optimiser':<9} {'schedule':<9} {'epochs':>6} "
        f"{'parameters':>10} {'MMACs':>5}  MNIST test, mean (sd)"
    )
    return "\n".join([header, *(_format_line(summary) for summary in summaries)])


def _format_line(summary: RecipeSummary) -> str:
    accuracy = "not measured"
    if summary.test_accuracy is not None and summary.test_accuracy_sd is not None:
        accuracy = (
            f"{summary.test_accuracy:.2%} ({summary.test_accuracy_sd * 100:.2f}), "
            f"{summary.num_seeds} seeds"
        )
    return (
        f"{summary.recipe:<13} {summary.architecture:<38} {summary.optimizer:<9} "
        f"{summary.schedule:<9} {summary.num_epochs:>6} {summary.num_parameters:>10,} "
        f"{summary.mmacs:>5.2f}  {accuracy}"
    )
