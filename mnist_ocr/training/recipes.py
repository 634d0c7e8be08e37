"""The recipes: how each kind of model is trained. Adding a recipe is adding an entry."""

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Recipe:
    """One way to train: AdamW under a one-cycle learning rate, an average of the weights kept."""

    architecture: str
    """Name of the network in `mnist_ocr.digits.networks.ARCHITECTURES`."""
    num_epochs: int
    """Length of the fixed schedule; the last epoch's weights are the result."""
    batch_size: int
    """Images per step over all workers."""
    learning_rate: float
    """Peak of the one-cycle schedule."""
    weight_decay: float
    """AdamW's decoupled weight decay."""
    ema_decay: float
    """Share of the weight average kept at each step."""
    augmentation: Augmentation | None
    """Random distortion of the training images; None trains on them as they are."""
    min_steps_per_epoch: int = 25
    """A dataset with fewer batches than this is passed over several times in an epoch."""


RECIPES: dict[str, Recipe] = {
    "mlp-128": Recipe(
        architecture="mlp-128",
        num_epochs=12,
        batch_size=128,
        learning_rate=3e-3,
        weight_decay=0.01,
        ema_decay=0.998,
        augmentation=Augmentation(
            max_rotation_deg=5, max_scaling=0.05, max_shear=0.05, max_shift_px=0.5, elastic_px=0.3
        ),
    ),
    "cnn": Recipe(
        architecture="cnn",
        num_epochs=16,
        batch_size=128,
        learning_rate=1e-2,
        weight_decay=0.05,
        ema_decay=0.998,
        augmentation=Augmentation(
            max_rotation_deg=10, max_scaling=0.1, max_shear=0.1, max_shift_px=2.0, elastic_px=0.7
        ),
    ),
}
