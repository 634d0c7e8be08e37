from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import UsageError
from mnist_ocr.training.datasets import Split
from mnist_ocr.training.loop import EpochMetrics, TrainingLoop
from mnist_ocr.training.recipes import RECIPES, Recipe

TINY = {"num_epochs": 2, "batch_size": 16, "min_steps_per_epoch": 1}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Batches this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def split() -> Split:
    """Forty noisy images, where the digit is the number of the bright pair of rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 10
    images = rng.integers(0, 60, (40, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 + 2 * label : 6 + 2 * label] += 180
    return Split(images, labels)


def build_loop(split: Split, name: str = "cnn", seed: int = 0, **changes: Any) -> TrainingLoop:
    recipe: Recipe = replace(RECIPES[name], **{**TINY, **changes})
    torch.manual_seed(seed)
    return TrainingLoop(
        build_network(recipe.architecture),
        recipe,
        split,
        split,
        mean=0.2,
        std=0.3,
        seed=seed,
        device=torch.device("cpu"),
    )


def run(loop: TrainingLoop) -> tuple[list[EpochMetrics], dict[str, torch.Tensor]]:
    return list(loop.run()), loop.ema_network.state_dict()


def test_loop_learns(split: Split) -> None:
    """A short run without augmentation reads its own training images."""
    loop = build_loop(split, num_epochs=15, augmentation=None, ema_decay=0.8)
    metrics, _ = run(loop)
    assert metrics[-1].train_loss < metrics[0].train_loss / 4
    assert metrics[-1].validation_accuracy >= 0.9
    predicted = loop.compute_logits(split.images).argmax(1)
    assert (predicted == split.labels).mean() == metrics[-1].validation_accuracy


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_gives_bit_equal_weights(name: str, split: Split) -> None:
    """On CPU a run is a function of its seed, to the last bit."""
    _, first = run(build_loop(split, name, seed=3))
    _, second = run(build_loop(split, name, seed=3))
    _, other = run(build_loop(split, name, seed=4))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_every_epoch_reports(split: Split) -> None:
    """Metrics come once per epoch, as plain numbers, and the learning rate ends near 0."""
    metrics, _ = run(build_loop(split, num_epochs=3))
    assert [m.epoch for m in metrics] == [1, 2, 3]
    assert all(type(value) in (int, float) for m in metrics for value in vars(m).values())
    assert 0 < metrics[-1].learning_rate < RECIPES["cnn"].learning_rate / 1000


def test_epoch_takes_every_image_at_most_once(split: Split) -> None:
    """An epoch is a permutation cut into whole batches, another one each time."""
    loop = build_loop(split)
    orders = [loop._draw_order(epoch) for epoch in range(2)]
    for order in orders:
        assert order.shape == (2, 16)
        assert len(order.unique()) == 32
    assert not torch.equal(*orders)


def test_small_dataset_is_passed_over_several_times(split: Split) -> None:
    """An epoch has at least the recipe's number of steps, in whole passes."""
    loop = build_loop(split, min_steps_per_epoch=5)
    assert loop.steps_per_epoch == 6
    assert loop._draw_order(0).unique(return_counts=True)[1].max() <= 3


def test_workers_share_each_global_batch(split: Split) -> None:
    """Two workers' batches, put together, are the batches of one."""
    loop = build_loop(split)
    whole = loop._draw_order(0)
    loop.world_size = 2
    shares = []
    for loop.rank in range(2):
        shares.append(loop._draw_order(0))
    assert torch.equal(torch.cat(shares, dim=1), whole)


def test_averaged_weights_lag_behind(split: Split) -> None:
    """A step moves the average by 1 - decay of the way to the weights being trained."""
    loop = build_loop(split, ema_decay=0.75)
    list(loop.run())
    before = loop.ema_network.state_dict()["0.weight"].clone()
    loop._update_average(step=1000)
    after, trained = (n.state_dict()["0.weight"] for n in (loop.ema_network, loop.network))
    assert not torch.equal(before, trained)
    torch.testing.assert_close(after, 0.75 * before + 0.25 * trained)


def test_validation_does_not_change_training(split: Split) -> None:
    """The weights depend on the training images alone."""
    _, first = run(build_loop(split))
    loop = build_loop(split)
    loop.validation_images = 255 - loop.validation_images
    _, second = run(loop)
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_divergence_is_an_error_that_says_what_to_do(split: Split) -> None:
    """A loss that is not a number stops the run and names the learning rate."""
    loop = build_loop(split, "mlp-128", learning_rate=1e30)
    with pytest.raises(UsageError, match=r"diverged.*--learning-rate below 1e\+30"):
        list(loop.run())
