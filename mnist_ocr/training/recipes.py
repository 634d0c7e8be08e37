"""The recipes: how each kind of model is trained. Adding a recipe is adding an entry."""

from dataclasses import dataclass, replace

from mnist_ocr.errors import UsageError

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "linear", "one-cycle")
PRECISIONS = ("float32", "bfloat16")
NORMALIZATIONS = ("dataset", "symmetric", "unit")


CORRUPTION_FAMILIES = (
    "distortion",
    "thickness",
    "strokes",
    "occlusion",
    "convolution",
    "background",
    "resolution",
    "blur",
    "jitter",
    "tone",
    "noise",
)
"""What can befall a digit on its way to a scan: a distortion beyond the usual limits, and the
functions in `corruptions`."""


@dataclass(frozen=True)
class Augmentation:
    """How far a digit may be distorted; all but the elastic field are drawn uniformly."""

    max_rotation_deg: float
    """Rotation either way, in degrees."""
    max_scaling: float
    """Relative change of size: 0.1 is 90% to 110%, drawn for width and height separately."""
    max_shear: float
    """Horizontal shift per unit of height."""
    max_shift_px: float
    """Shift either way along each axis, in pixels."""
    elastic_px: float
    """Standard deviation of the shift of a control point of the elastic field, in pixels."""
    heavy_share: float = 0.0
    """Share of the images that corruptions befall as well."""
    families: tuple[str, ...] = ()
    """Which corruptions: of `CORRUPTION_FAMILIES`."""


_FULL = Augmentation(
    max_rotation_deg=10, max_scaling=0.1, max_shear=0.1, max_shift_px=2.0, elastic_px=0.7
)
_HEAVY = replace(_FULL, heavy_share=0.5, families=CORRUPTION_FAMILIES)

AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "mild": Augmentation(
        max_rotation_deg=5, max_scaling=0.05, max_shear=0.05, max_shift_px=0.5, elastic_px=0.3
    ),
    "full": _FULL,
    "heavy": _HEAVY,
} | {
    f"heavy-no-{left_out}": replace(
        _HEAVY, families=tuple(family for family in CORRUPTION_FAMILIES if family != left_out)
    )
    for left_out in CORRUPTION_FAMILIES
}


@dataclass(frozen=True)
class Recipe:
    """One way to train; every field is also a flag of `train`."""

    architecture: str
    """Name of the network, as `mnist_ocr.digits.networks.build_network` takes it."""
    optimizer: str
    """`adam`, `adamw` (weight decay apart from the gradient) or `sgd` (with momentum)."""
    learning_rate: float
    """Highest learning rate of the schedule."""
    num_epochs: int
    """Length of the fixed schedule; the last epoch's weights are the result."""
    schedule: str = "constant"
    """`constant`, `linear` (down to 0) or `one-cycle` (up for 30% of the steps, then down to 0)."""
    batch_size: int = 64
    """Images per step over all workers."""
    momentum: float = 0.9
    """Of `sgd`; Adam has its own usual moments."""
    weight_decay: float = 0.0
    """Pull of the weights towards 0."""
    ema_decay: float = 0.0
    """Share of the weight average kept at each step; at 0 the average is the weights themselves."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all ten digits."""
    normalization: str = "dataset"
    """What pixels become: `dataset` (mean 0, deviation 1 over the training images), `symmetric`
    (-1 to 1) or `unit` (0 to 1)."""
    augmentation: str = "none"
    """Random distortion of the training images: a name in `AUGMENTATIONS`."""
    augmentation_strength: float = 1.0
    """What the limits of the distortion are multiplied by."""
    outlier_share: float = 0.0
    """Synthetic non-digits for each image, on which the network learns to be undecided."""
    precision: str = "float32"
    """Of the forward and backward passes: `float32` or `bfloat16`; weights are float32."""
    min_steps_per_epoch: int = 25
    """A dataset with fewer batches than this is passed over several times in an epoch."""

    def build_augmentation(self) -> Augmentation | None:
        """The distortion of this recipe at its strength."""
        limits = AUGMENTATIONS[self.augmentation]
        if limits is None:
            return None
        factor = self.augmentation_strength
        return replace(
            limits,
            max_rotation_deg=limits.max_rotation_deg * factor,
            max_scaling=limits.max_scaling * factor,
            max_shear=limits.max_shear * factor,
            max_shift_px=limits.max_shift_px * factor,
            elastic_px=limits.elastic_px * factor,
        )


# The first six are the classifiers that this project grew out of: their networks, optimisers and
# learning rates; schedules and distortion are ours.
RECIPES: dict[str, Recipe] = {
    "mlp-adam": Recipe(
        architecture="mlp-256-128",
        optimizer="adam",
        learning_rate=1e-3,
        num_epochs=20,
        schedule="linear",
        normalization="symmetric",
    ),
    "mlp5-sgd": Recipe(
        architecture="mlp-512-256-128-64",
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        num_epochs=20,
        schedule="linear",
        augmentation="mild",
    ),
    "ffn-adam": Recipe(
        architecture="mlp-512",
        optimizer="adam",
        learning_rate=1e-3,
        num_epochs=10,
        schedule="linear",
    ),
    "cnn-adam": Recipe(
        architecture="lenet",
        optimizer="adam",
        learning_rate=1e-3,
        num_epochs=5,
        schedule="linear",
    ),
    "mlp-128-90-50": Recipe(
        architecture="mlp-128-90-50",
        optimizer="adam",
        learning_rate=1e-3,
        num_epochs=15,
        schedule="linear",
    ),
    "mlp-128": Recipe(
        architecture="mlp-128",
        optimizer="adam",
        learning_rate=1e-3,
        num_epochs=12,
        schedule="one-cycle",
        batch_size=32,
        ema_decay=0.998,
        augmentation="mild",
    ),
    "cnn": Recipe(
        architecture="cnn",
        optimizer="adamw",
        learning_rate=1e-2,
        num_epochs=16,
        schedule="one-cycle",
        batch_size=128,
        weight_decay=0.05,
        ema_decay=0.998,
        augmentation="full",
    ),
    "tiny": Recipe(
        architecture="conv-8-12-p-12r-12r-p-16-16r",
        optimizer="adamw",
        learning_rate=1e-2,
        num_epochs=30,
        schedule="one-cycle",
        batch_size=128,
        weight_decay=0.01,
        ema_decay=0.998,
        augmentation="full",
        augmentation_strength=0.7,
        precision="bfloat16",
    ),
    # The network was chosen on validation images: docs/model.md.
    "trusted": Recipe(
        architecture="conv-32x5s2-32r-64s2-64r-64r-96s2-96r",
        optimizer="adamw",
        learning_rate=1e-2,
        num_epochs=64,
        schedule="one-cycle",
        batch_size=128,
        weight_decay=0.05,
        ema_decay=0.998,
        augmentation="heavy",
        outlier_share=0.0625,
        precision="bfloat16",
    ),
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in RECIPES:
        raise UsageError(f"Unknown recipe {name!r}. Choose one of: {', '.join(RECIPES)}.")
    return RECIPES[name]
