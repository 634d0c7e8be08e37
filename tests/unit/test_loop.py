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


@pytest.fixture(params=["cnn", "mlp5-sgd", "mlp-adam"])
def recipe_name(request: pytest.FixtureRequest) -> str:
    """A recipe of each optimiser."""
    return str(request.param)


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
    loop = build_loop(split, num_epochs=15, augmentation="none", ema_decay=0.8)
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
    assert 0 < metrics[-1].learning_rate < RECIPES["cnn"].learning_rate / 10


def test_interrupted_run_ends_with_the_same_bits(split: Split, recipe_name: str) -> None:
    """A loop that takes over another's state after an epoch goes on as that one would have."""
    whole = build_loop(split, recipe_name, num_epochs=4)
    metrics, wanted = run(whole)
    first = build_loop(split, recipe_name, num_epochs=4)
    epochs = first.run()
    next(epochs), next(epochs)
    state = {name: value.clone().contiguous() for name, value in first.state_dict().items()}
    second = build_loop(split, recipe_name, seed=0, num_epochs=4)
    second.load_state_dict(state, first.history)
    rest, weights = run(second)
    torch.testing.assert_close(weights, wanted, atol=0, rtol=0)
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), atol=0, rtol=0)
    assert [m.epoch for m in rest] == [3, 4]
    assert [m.train_loss for m in second.history] == [m.train_loss for m in metrics]


def test_run_interrupted_within_an_epoch_ends_with_the_same_bits(
    split: Split, recipe_name: str
) -> None:
    """As after an epoch; its metrics are those of the whole epoch, too."""
    whole = build_loop(split, recipe_name, num_epochs=3)
    metrics, wanted = run(whole)
    first = build_loop(split, recipe_name, num_epochs=3)
    second = build_loop(split, recipe_name, num_epochs=3)

    def hand_over() -> None:
        if len(first.history) == 1 and first.sums.num_steps == 2:
            state = {name: value.clone() for name, value in first.state_dict().items()}
            second.load_state_dict(state, first.history, first.sums.sum_over_workers())

    list(first.run(hand_over))
    num_steps: list[int] = []
    rest = list(second.run(lambda: num_steps.append(second.sums.num_steps)))
    assert num_steps == [3, 1, 2, 3]
    torch.testing.assert_close(second.ema_network.state_dict(), wanted, atol=0, rtol=0)
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), atol=0, rtol=0)
    assert [m.train_loss for m in rest] == [m.train_loss for m in metrics[1:]]
    assert [m.train_accuracy for m in rest] == [m.train_accuracy for m in metrics[1:]]


def test_without_averaging_the_average_is_the_weights(split: Split) -> None:
    """An `ema_decay` of 0 leaves the weights of the last step."""
    loop = build_loop(split, ema_decay=0.0)
    _, averages = run(loop)
    averages = {name: value for name, value in averages.items() if value.is_floating_point()}
    torch.testing.assert_close(
        averages, {name: loop.network.state_dict()[name] for name in averages}, atol=0, rtol=0
    )


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
