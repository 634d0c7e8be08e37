"""What an epoch is measured by, and the JSON lines that record it."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

METRICS = "metrics.jsonl"
"""One JSON object per epoch, in the model directory."""


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch did, over all workers."""

    epoch: int
    """Number of epochs finished."""
    train_loss: float
    """Mean of the loss of the weights being trained, on distorted images, in nats."""
    train_accuracy: float
    """Share of those images read rightly."""
    validation_loss: float
    """Mean cross-entropy of the averaged weights, in nats."""
    validation_accuracy: float
    """Share of validation images that the averaged weights read rightly."""
    learning_rate: float
    """Learning rate of the last step."""
    images_per_s: float
    """Training speed over all workers, validation left out."""
    seconds: float
    """Duration of the epoch, validation included."""
    num_workers: int = 1
    """Workers that shared its batches; an elastic run may change it between epochs."""

    def format(self, num_epochs: int) -> str:
        """One line for a person."""
        return (
            f"epoch {self.epoch}/{num_epochs}: train loss {self.train_loss:.4f}, "
            f"validation loss {self.validation_loss:.4f}, "
            f"validation accuracy {self.validation_accuracy:.2%}, "
            f"{self.images_per_s:,.0f} images/s"
        )


def format_history(history: Iterable[EpochMetrics]) -> str:
    """The lines of `metrics.jsonl`."""
    return "".join(json.dumps(asdict(metrics)) + "\n" for metrics in history)


def parse_history(lines: str) -> list[EpochMetrics]:
    """The epochs in `metrics.jsonl`; a line that is not one is passed over, and so are fields."""
    known = {field.name for field in fields(EpochMetrics)}
    history = []
    for line in lines.splitlines():
        with suppress(ValueError, TypeError, AttributeError):
            values = json.loads(line).items()
            history.append(EpochMetrics(**{k: v for k, v in values if k in known}))
    return history
