"""A search around a recipe: which configurations are tried, and what came of them.

Nothing here knows Ray, which runs the trials (`trials.py`).
"""

import csv
import io
import random
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from mnist_ocr.training.config import RecipeOverrides, TuneConfig
from mnist_ocr.training.metrics import EpochMetrics
from mnist_ocr.training.recipes import AUGMENTATIONS, Recipe

CNN_WIDTH = 32
"""Of the architecture `cnn`."""

HEADINGS = (
    "trial",
    "learning rate",
    "architecture",
    "batch",
    "augmentation",
    "epochs",
    "accuracy",
    "loss",
    "status",
)


@dataclass(frozen=True)
class TrialResult:
    """What was tried and what came of it; every value can be written as JSON."""

    trial: int
    """Number of the trial; 0 is the recipe itself."""
    learning_rate: float
    architecture: str
    batch_size: int
    augmentation: str
    augmentation_strength: float
    status: str
    """`finished`; `stopped` early, behind others; `diverged`; or `failed`: its workers died."""
    num_epochs: int
    """Epochs run."""
    validation_accuracy: float | None
    """Of the averaged weights after the last of them, as the loss."""
    validation_loss: float | None


@dataclass(frozen=True)
class Tuning:
    """What a search found; every value can be written as JSON."""

    output_uri: str
    """The search's folder: an absolute path or a URI."""
    dataset: str
    recipe: str
    num_trials: int
    best_trial: int
    """The finished trial of lowest validation loss."""
    best_flags: list[str]
    """Its configuration, as arguments of `mnist-ocr train`."""
    best_command: str
    """The same as a line for a shell."""
    validation_accuracy: float | None
    """The best trial's."""
    validation_loss: float | None
    recipe_validation_accuracy: float | None
    """The unchanged recipe's, under the same conditions; None if it did not finish."""
    recipe_validation_loss: float | None
    trials: list[TrialResult]
    """Best first: the finished by validation loss, then the others."""

    def format(self) -> str:
        """The table of trials, then the command that trains with the best one's values."""
        rows = [HEADINGS, *map(_format_row, self.trials)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        lines += ["Accuracy and loss are those on the validation images; trial 0 is the recipe."]
        return "\n".join([*lines, "", "Train with the best values:", self.best_command])


def propose_overrides(
    recipe: Recipe, num_trials: int, seed: int, num_images: int
) -> list[RecipeOverrides]:
    """Draw the configurations of a search: the recipe itself, then random ones around it.

    Drawn independently rather than one after the other's results, so that all trials may run side
    by side, and a search that is interrupted goes on as it would have.

    Args:
        recipe: Where the search starts.
        num_trials: How many configurations.
        seed: The same seed gives the same list; a longer one begins with a shorter one.
        num_images: Training images; no batch is larger.
    """
    generator = random.Random(seed)
    architectures = list_widths(recipe.architecture)
    batch_sizes = [recipe.batch_size // 2 or 1, recipe.batch_size, recipe.batch_size * 2]
    proposals = [RecipeOverrides()]
    while len(proposals) < num_trials:
        proposal = replace(
            recipe,
            learning_rate=float(f"{recipe.learning_rate * 4 ** generator.uniform(-1, 1):.2g}"),
            architecture=generator.choice(architectures),
            batch_size=generator.choice([size for size in batch_sizes if size <= num_images]),
        )
        if recipe.augmentation == "none":
            choices = [name for name in AUGMENTATIONS if "-no-" not in name]
            proposal = replace(proposal, augmentation=generator.choice(choices))
        else:
            strength = round(recipe.augmentation_strength * generator.uniform(0.5, 1.5), 2)
            proposal = replace(proposal, augmentation_strength=strength)
        own = set(asdict(proposal).items()) - set(asdict(recipe).items())
        proposals.append(RecipeOverrides(**dict(own)))
    return proposals[:num_trials]


def list_widths(architecture: str) -> list[str]:
    """The same kind of network in several widths, itself among them."""
    kind, *sizes = architecture.split("-")
    factors = {"mlp": (0.5, 1, 2), "cnn": (0.5, 0.75, 1, 1.5)}.get(kind)
    if factors is None:
        return [architecture]
    widths = [int(size) for size in sizes] or [CNN_WIDTH]
    scaled = {
        factor: "-".join([kind, *(f"{max(1, round(width * factor))}" for width in widths)])
        for factor in factors
    }
    return list((scaled | {1: architecture}).values())


def summarize_trial(
    trial: int, recipe: Recipe, status: str, history: Sequence[EpochMetrics]
) -> TrialResult:
    """Put what was tried and what came of it side by side."""
    last = history[-1] if history else None
    return TrialResult(
        trial=trial,
        learning_rate=recipe.learning_rate,
        architecture=recipe.architecture,
        batch_size=recipe.batch_size,
        augmentation=recipe.augmentation,
        augmentation_strength=recipe.augmentation_strength,
        status=status,
        num_epochs=len(history),
        validation_accuracy=last.validation_accuracy if last else None,
        validation_loss=last.validation_loss if last else None,
    )


def rank_trials(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Best first: the finished by validation loss, then the stopped, the diverged, the failed.

    A loss in the middle of a schedule says little about its end, so that only a trial that
    finished can be the best.
    """
    order = ("finished", "stopped", "diverged", "failed")
    return sorted(
        trials, key=lambda trial: (order.index(trial.status), trial.validation_loss or 0.0)
    )


def list_train_flags(config: TuneConfig, overrides: RecipeOverrides) -> list[str]:
    """The arguments of `mnist-ocr train` that repeat a trial."""
    flags = ["--dataset", config.dataset, "--recipe", config.recipe]
    defaults = {field.name: field.default for field in fields(TuneConfig)}
    for name in ("data_root", "image_column", "label_column", "seed"):
        value = getattr(config, name)
        if value != defaults[name]:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags + replace(overrides, num_epochs=config.num_epochs).to_flags()


def format_command(flags: Sequence[str]) -> str:
    """A line for a shell."""
    return shlex.join(["mnist-ocr", "train", *flags])


def format_csv(trials: Sequence[TrialResult]) -> str:
    """The trials as CSV, a header line first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(TrialResult)])
    writer.writeheader()
    writer.writerows(asdict(trial) for trial in trials)
    return text.getvalue()


def _format_row(trial: TrialResult) -> tuple[str, ...]:
    accuracy, loss = trial.validation_accuracy, trial.validation_loss
    strength = "" if trial.augmentation == "none" else f" x{trial.augmentation_strength:.2f}"
    return (
        str(trial.trial),
        f"{trial.learning_rate:g}",
        trial.architecture,
        str(trial.batch_size),
        trial.augmentation + strength,
        str(trial.num_epochs),
        "-" if accuracy is None else f"{accuracy:.2%}",
        "-" if loss is None else f"{loss:.4f}",
        trial.status,
    )
