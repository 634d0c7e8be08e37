from dataclasses import replace

import numpy as np
import pytest
import torch

from mnist_ocr.training.batches import Batch, BatchSource
from mnist_ocr.training.datasets import Split
from mnist_ocr.training.recipes import RECIPES

NUM_IMAGES = 45


@pytest.fixture
def split() -> Split:
    """Images whose first pixel is their number, and so is their label."""
    images = np.zeros((NUM_IMAGES, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(NUM_IMAGES)
    return Split(images, np.arange(NUM_IMAGES, dtype=np.int64))


def draw(
    split: Split, rank: int = 0, world_size: int = 1, epoch: int = 0, **changes
) -> list[Batch]:
    recipe = replace(RECIPES["cnn"], batch_size=16, min_steps_per_epoch=1, augmentation="none")
    source = BatchSource(
        split,
        replace(recipe, **changes),
        seed=0,
        device=torch.device("cpu"),
        rank=rank,
        world_size=world_size,
    )
    batches = list(source.draw_batches(epoch))
    assert len(batches) == source.steps_per_epoch
    assert sum(b.global_size for b in batches) == source.images_per_epoch
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_epoch_takes_every_image_exactly_once(split: Split, world_size: int) -> None:
    """Over all workers, whatever their number, with their labels, the last small batch included."""
    shares = [draw(split, rank, world_size) for rank in range(world_size)]
    labels = torch.cat([batch.labels for share in shares for batch in share])
    assert sorted(labels.tolist()) == list(range(NUM_IMAGES))
    for batch in shares[0]:
        assert torch.equal((batch.inputs[:, 0, 0, 0] * 255).round().long(), batch.labels)


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_share_each_global_batch(split: Split, world_size: int) -> None:
    """Their parts, put together, are the batches of one worker, distortion included."""
    options = {"augmentation": "full", "epoch": 3}
    whole = draw(split, **options)
    shares = [draw(split, rank, world_size, **options) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
        assert {part.global_size for part in parts} == {len(batch.labels)}
        assert max(len(p.labels) for p in parts) - min(len(p.labels) for p in parts) <= 1


def test_every_epoch_has_its_own_order(split: Split) -> None:
    """The same one whenever it is drawn."""
    first, again, second = (draw(split, epoch=epoch)[0].labels for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_small_dataset_is_passed_over_several_times(split: Split) -> None:
    """An epoch has at least the recipe's number of steps, in whole passes."""
    batches = draw(split, min_steps_per_epoch=5)
    assert len(batches) == 6
    counts = torch.cat([batch.labels for batch in batches]).unique(return_counts=True)[1]
    assert counts.tolist() == [2] * NUM_IMAGES


def test_non_digits_follow_the_digits(split: Split) -> None:
    """A share of each batch, without labels, shared by the workers as the digits are."""
    options = {"augmentation": "heavy", "outlier_share": 0.25}
    whole = draw(split, **options)
    shares = [draw(split, rank, 2, **options) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        num_outliers = len(batch.inputs) - len(batch.labels)
        assert num_outliers == round(batch.global_size / 4)
        outliers = torch.cat([part.inputs[len(part.labels) :] for part in parts])
        torch.testing.assert_close(outliers, batch.inputs[len(batch.labels) :], atol=1e-5, rtol=0)
