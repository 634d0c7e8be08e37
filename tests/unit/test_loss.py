from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mnist_ocr.digits.calibration import Calibration
from mnist_ocr.digits.model import Model, save_model
from mnist_ocr.digits.networks import build_network
from mnist_ocr.training.batches import Batch
from mnist_ocr.training.distillation import TEACHER_WEIGHT, Committee
from mnist_ocr.training.loss import compute_loss

CPU = torch.device("cpu")


@pytest.fixture
def teachers(tmp_path: Path) -> list[Model]:
    """Two untrained networks of different architecture and pixel scale."""
    torch.manual_seed(0)
    return [
        save_model(
            str(tmp_path / name),
            build_network(name),
            architecture=name,
            mean=mean,
            std=0.3,
            calibration=Calibration(),
            metrics={},
            training={},
            data={},
        )
        for name, mean in [("mlp-8", 0.1), ("cnn-4", 0.2)]
    ]


@pytest.fixture
def batch() -> Batch:
    """Six digits and two non-digits."""
    inputs = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    return Batch(inputs, torch.tensor([0, 1, 2, 3, 4, 5]), 6)


def test_committee_says_the_mean_of_its_members(teachers: list[Model], batch: Batch) -> None:
    """Probabilities, each member with its own pixel scale; no gradient."""
    single = [Committee([teacher], CPU)(batch.inputs) for teacher in teachers]
    mean = Committee(teachers, CPU)(batch.inputs)
    torch.testing.assert_close(mean, (single[0] + single[1]) / 2)
    torch.testing.assert_close(mean.sum(1), torch.ones(8))
    assert not mean.requires_grad


def test_loss_of_digits_and_of_non_digits(batch: Batch) -> None:
    """Cross-entropy with the labels, and with "each digit is as likely", summed."""
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(2))
    loss, outlier_loss = compute_loss(logits, batch, 0.0, None)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:6], batch.labels, reduction="sum"))
    uniform = torch.full((2, 10), 0.1)
    expected = F.cross_entropy(logits[6:], uniform, reduction="sum")
    torch.testing.assert_close(outlier_loss, expected)
    undecided = compute_loss(torch.zeros(8, 10), batch, 0.0, None)[1]
    assert undecided < outlier_loss


def test_teachers_have_their_share_of_the_target(teachers: list[Model], batch: Batch) -> None:
    """The loss is least where the network says what labels and teachers say together."""
    committee = Committee(teachers, CPU)
    taught = committee(batch.inputs[:6])
    target = (1 - TEACHER_WEIGHT) * F.one_hot(batch.labels, 10) + TEACHER_WEIGHT * taught
    logits = torch.cat([target.log(), torch.zeros(2, 10)])
    least = compute_loss(logits, batch, 0.0, committee)[0]
    torch.testing.assert_close(least, -(target * target.log()).sum())
    assert compute_loss(logits + torch.eye(8, 10), batch, 0.0, committee)[0] > least
