"""What `train` and `evaluate` can be told: every field is a flag, its docstring the flag's help."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from mnist_ocr.errors import UsageError
from mnist_ocr.training.recipes import RECIPES, Recipe


@dataclass(frozen=True)
class TrainConfig:
    """Train a digit classifier with Ray Train and write a model directory.

    Example: mnist-ocr train --dataset mnist --recipe cnn --model-uri models/cnn
    """

    dataset: Literal["mnist", "digits"] = "mnist"
    """What to train on: mnist (60,000 images, downloaded once) or digits (1,797 small scans that
    come with scikit-learn: no download)."""
    recipe: str = "cnn"
    """How to train: cnn (accurate) or mlp-128 (small and quick)."""
    model_uri: str | None = None
    """Folder or s3:// URI to write the model to; by default models/DATASET-RECIPE."""
    data_root: str = "data"
    """Folder that holds MNIST/raw/, or where it is downloaded to."""
    num_workers: int = 1
    """Workers that share every batch; on CPU they also share the cores."""
    use_gpu: bool = False
    """Give every worker a GPU."""
    num_epochs: int | None = None
    """Passes over the training images; by default the recipe's."""
    batch_size: int | None = None
    """Images per step over all workers; by default the recipe's."""
    learning_rate: float | None = None
    """Highest learning rate; by default the recipe's."""
    seed: int = 0
    """Seeds weights, order and distortion: the same seed on the same CPU gives the same model."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        if self.recipe not in RECIPES:
            known = ", ".join(RECIPES)
            raise UsageError(f"Unknown recipe {self.recipe!r}. Choose one of: {known}.")
        for name in ("num_workers", "num_epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}. Pass a whole number from 1.")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise UsageError(
                f"learning_rate is {self.learning_rate}. Pass a number above 0, such as 0.003."
            )
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}. Pass a whole number from 0.")
        batch_size = self.build_recipe().batch_size
        if batch_size % self.num_workers:
            raise UsageError(
                f"A batch of {batch_size} images cannot be shared evenly by {self.num_workers} "
                "workers. Pass a batch_size that is a multiple of num_workers."
            )

    def build_recipe(self) -> Recipe:
        """The recipe, with this config's own values in place of the recipe's."""
        names = ("num_epochs", "batch_size", "learning_rate")
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        return replace(
            RECIPES[self.recipe],
            **{name: value for name, value in own.items() if value is not None},
        )


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a model on the test images of a dataset.

    Example: mnist-ocr evaluate models/cnn --dataset mnist
    """

    model_uri: str
    """Model directory: a folder or s3:// URI that `mnist-ocr train` has written."""
    dataset: Literal["mnist", "digits"] = "mnist"
    """Whose test images to read: mnist (10,000) or digits (797)."""
    data_root: str = "data"
    """Folder that holds MNIST/raw/, or where it is downloaded to."""
