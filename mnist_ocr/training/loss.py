"""What training minimises: cross-entropy of the digits, and certainty about what is none."""

import torch.nn.functional as F
from torch import Tensor

from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.training.batches import Batch
from mnist_ocr.training.distillation import TEACHER_WEIGHT, Committee


def compute_loss(
    logits: Tensor, batch: Batch, label_smoothing: float, committee: Committee | None
) -> tuple[Tensor, Tensor]:
    """Sum both losses over a worker's part of a batch.

    Args:
        logits: (B + O, 10) float32, of the batch's digits and non-digits.
        batch: B digits and O non-digits.
        label_smoothing: Share of a digit's target that is spread over all ten.
        committee: Gives a share of a digit's target in place of its label.

    Returns:
        The digits' cross-entropy, and the non-digits', of which each digit is as likely (Hendrycks
        et al. 2019, outlier exposure); both ().
    """
    num_digits = len(batch.labels)
    targets = batch.labels
    if committee is not None:
        taught = committee(batch.inputs[:num_digits])
        targets = F.one_hot(targets, NUM_CLASSES).float().lerp(taught, TEACHER_WEIGHT)
    loss = F.cross_entropy(
        logits[:num_digits], targets, reduction="sum", label_smoothing=label_smoothing
    )
    return loss, -logits[num_digits:].log_softmax(1).mean(1).sum()
