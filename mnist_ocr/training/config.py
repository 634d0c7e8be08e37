"""What the training commands can be told: fields are flags, their docstrings the flags' help."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from mnist_ocr.errors import UsageError
from mnist_ocr.training.recipes import (
    AUGMENTATIONS,
    NORMALIZATIONS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    Recipe,
    get_recipe,
)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which labelled digits to read."""

    dataset: str = "mnist"
    """mnist (60,000 + 10,000 images, downloaded once), digits (1,797 small scans that come with
    scikit-learn: no download), or a folder or s3:// URI of your own scans: sub-folders 0/ to 9/, or
    Parquet files with an image and a label column."""
    data_root: str = "data"
    """Folder that holds MNIST/raw/, or where it is downloaded to; with qmnist/ in it or beside it,
    MNIST's validation images are those of writers held out."""
    image_column: str = "image"
    """Parquet: the column of encoded images (bytes, or a struct with a field bytes)."""
    label_column: str = "label"
    """Parquet: the column of digits."""

    @property
    def dataset_name(self) -> str:
        """The dataset's name for folders: the last part of a URI."""
        return self.dataset.rstrip("/").rpartition("/")[2].lstrip(".") or "scans"


@dataclass(frozen=True, kw_only=True)
class RecipeOverrides:
    """Values in place of the recipe's own; None keeps those."""

    architecture: str | None = None
    """Network: mlp-SIZE[-SIZE...] (hidden layers), lenet, cnn, cnn-WIDTH, or layer by layer
    conv-LAYER[-LAYER...]: channels, then x5 (5x5), s2 (stride 2), r (residual); p pools."""
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    """How weights follow gradients."""
    learning_rate: float | None = None
    """Highest learning rate."""
    num_epochs: int | None = None
    """Passes over the training images."""
    schedule: Literal["constant", "linear", "one-cycle"] | None = None
    """Learning rate over the run: linear and one-cycle end at 0."""
    batch_size: int | None = None
    """Images per step over all workers."""
    momentum: float | None = None
    """Of sgd, from 0 to 1."""
    weight_decay: float | None = None
    """Pull of the weights towards 0."""
    ema_decay: float | None = None
    """Share of the weight average kept at each step; 0 takes the last weights."""
    label_smoothing: float | None = None
    """Share of the target spread over all ten digits."""
    normalization: Literal["dataset", "symmetric", "unit"] | None = None
    """Pixels to mean 0 and deviation 1, to -1..1, or to 0..1."""
    augmentation: str | None = None
    """Of training images: none, mild, full (rotation, scaling, shear, shift, elastic distortion) or
    heavy (on every second one also noise, blur, stray strokes and the like); heavy-no-FAMILY leaves
    one family of those out."""
    augmentation_strength: float | None = None
    """Multiplies the distortion's limits."""
    outlier_share: float | None = None
    """Synthetic non-digits for each image, on which the network learns to be undecided."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the forward and backward passes; bfloat16 is faster where the hardware has it."""
    min_steps_per_epoch: int | None = None
    """A small dataset is passed over several times to make up an epoch of so many steps."""

    def apply_to(self, recipe: Recipe) -> Recipe:
        """The recipe with these values in place of its own.

        Raises:
            UsageError: A value makes no sense.
        """
        own = {name: value for name, value in vars(self).items() if value is not None}
        recipe = replace(recipe, **own)
        _check_recipe(recipe)
        return recipe

    def to_flags(self) -> list[str]:
        """These values as arguments of `mnist-ocr train`."""
        flags = []
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                flags += [f"--{each.name.replace('_', '-')}", str(value)]
        return flags


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DatasetConfig):
    """Train a digit classifier with Ray Train and write a model directory.

    Example: mnist-ocr train --dataset mnist --recipe cnn --model-uri models/cnn
    """

    mnist_weight: float = 0.0
    """Share of MNIST's images among the training images, beside those of your own dataset."""
    recipe: str = "cnn"
    """How to train; `mnist-ocr recipes` lists them."""
    model_uri: str | None = None
    """Folder or s3:// URI to write the model to; by default models/DATASET-RECIPE."""
    init_from: str | None = None
    """Model directory whose weights to start from (fine-tuning)."""
    teachers: tuple[str, ...] = ()
    """Model directories to learn from beside the labels (distillation of their mean)."""
    num_workers: int | str = 1
    """Workers that share every batch; on CPU they also share the cores. MIN:MAX, such as 1:4, takes
    as many as the cluster has room for, at any time."""
    use_gpu: bool = False
    """Give every worker a GPU."""
    seed: int = 0
    """Seeds weights, order and distortion: the same seed on the same CPU gives the same model."""
    mlflow_uri: str | None = None
    """Also track the run with MLflow there (needs the extra mlflow)."""
    override: RecipeOverrides = field(default_factory=RecipeOverrides)
    """Values in place of the recipe's own."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        _check_number("seed", self.seed, 0, 2**63)
        if not 0 <= self.mnist_weight <= 0.99:
            raise UsageError(
                f"mnist_weight is {self.mnist_weight}. Pass a share from 0 to 0.99, such as 0.5."
            )
        if self.mnist_weight and self.dataset == "mnist":
            raise UsageError("mnist_weight mixes MNIST into another dataset. Pass your --dataset.")
        recipe, (_, most) = self.build_recipe(), self.worker_range
        if recipe.batch_size < most:
            raise UsageError(
                f"A batch of {recipe.batch_size} images cannot be shared by {most} workers. "
                "Pass a larger batch_size or fewer workers."
            )

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest and the most workers; they differ if training is elastic."""
        ends = str(self.num_workers).split(":")
        if not (all(end.isdecimal() for end in ends) and 1 <= len(ends) <= 2):
            raise UsageError(f"num_workers is {self.num_workers}. Pass a number or MIN:MAX.")
        low, high = int(ends[0]), int(ends[-1])
        if not 1 <= low <= high:
            raise UsageError(
                f"num_workers is {self.num_workers}. Pass a whole number from 1, or MIN:MAX."
            )
        return low, high

    def build_recipe(self) -> Recipe:
        """The recipe, with this config's own values in place of the recipe's."""
        return self.override.apply_to(get_recipe(self.recipe))


def _check_recipe(recipe: Recipe) -> None:
    for name, choices in (
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("normalization", NORMALIZATIONS),
        ("augmentation", tuple(AUGMENTATIONS)),
        ("precision", PRECISIONS),
    ):
        if getattr(recipe, name) not in choices:
            value = getattr(recipe, name)
            raise UsageError(f"{name} is {value!r}. Choose one of: {', '.join(choices)}.")
    for name in ("num_epochs", "batch_size", "min_steps_per_epoch"):
        _check_number(name, getattr(recipe, name), 1, math.inf)
    for name in ("weight_decay", "augmentation_strength"):
        _check_number(name, getattr(recipe, name), 0, math.inf)
    for name in ("momentum", "ema_decay", "label_smoothing", "outlier_share"):
        _check_number(name, getattr(recipe, name), 0, 1)
    if not 0 < recipe.learning_rate < math.inf:
        raise UsageError(
            f"learning_rate is {recipe.learning_rate}. Pass a number above 0, such as 0.003."
        )


def _check_number(name: str, value: float, low: float, high: float) -> None:
    """Refuse values outside [low, high)."""
    if not low <= value < high:
        below = "" if high == math.inf else f" to below {high}"
        raise UsageError(f"{name} is {value}. Pass a number from {low:g}{below}.")


@dataclass(frozen=True, kw_only=True)
class RecipesConfig:
    """List the recipes: network, optimiser, size, and the accuracy measured on MNIST."""

    names: bool = False
    """Print the names alone, one a line."""


@dataclass(frozen=True, kw_only=True)
class ExploreConfig(DatasetConfig):
    """Describe a dataset: images per digit and split, shape, mean, deviation, and a picture.

    Example: mnist-ocr explore --dataset mnist
    """

    output_uri: str | None = None
    """Folder or s3:// URI for the picture; by default explore/DATASET."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DatasetConfig):
    """Measure a model on the test images of a dataset, and draw what it does.

    Example: mnist-ocr evaluate models/cnn --dataset mnist
    """

    model_uri: str
    """Model directory: a folder or s3:// URI that `mnist-ocr train` has written."""
    split: Literal["train", "validation", "test", "all"] = "test"
    """Which images of the dataset to read; all suits scans that no model was trained on."""
    output_uri: str | None = None
    """Folder or s3:// URI for the pictures; by default
    MODEL_URI/evaluation/DATASET-SPLIT."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a model as one file for other programs.

    Example: mnist-ocr export models/cnn --format pt
    """

    model_uri: str
    """Model directory: a folder or s3:// URI that `mnist-ocr train` has written."""
    format: Literal["pt", "onnx"] = "onnx"
    """pt: the network's state_dict, for torch.load(weights_only=True); onnx: uint8 images to logits
    and probabilities, normalisation inside."""
    output_uri: str | None = None
    """File to write, local or s3://; by default MODEL_NAME.FORMAT in the current folder."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(DatasetConfig):
    """Search for better values of a recipe with Ray Tune, on validation images only.

    Example: mnist-ocr tune --dataset mnist --recipe cnn --num-trials 20
    """

    recipe: str = "cnn"
    """The recipe to start from: learning rate, width, augmentation strength and batch size vary
    around its values."""
    output_uri: str | None = None
    """Folder or s3:// URI for the trials; by default tune/DATASET-RECIPE. The same command
    continues there."""
    num_trials: int = 16
    """Configurations to try."""
    num_epochs: int | None = None
    """Longest training of a trial; by default the recipe's."""
    num_gpus_per_trial: float = 0.0
    """GPU share of a trial, such as 0.25; 0 runs each on one CPU."""
    seed: int = 0
    """Seeds the search and the trials."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        get_recipe(self.recipe)
        _check_number("num_trials", self.num_trials, 1, math.inf)
        _check_number("num_epochs", self.num_epochs or 1, 1, math.inf)
        _check_number("num_gpus_per_trial", self.num_gpus_per_trial, 0, math.inf)
        _check_number("seed", self.seed, 0, 2**63)
