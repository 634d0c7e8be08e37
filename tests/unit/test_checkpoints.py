from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_ocr.errors import UsageError
from mnist_ocr.local_store import LocalStore
from mnist_ocr.training.checkpoints import (
    CHECKPOINT,
    read_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from mnist_ocr.training.datasets import Dataset, Split
from mnist_ocr.training.loop import TrainingLoop, build_loop
from mnist_ocr.training.recipes import Recipe

RECIPE = Recipe(
    architecture="mlp-8",
    optimizer="adam",
    learning_rate=1e-3,
    num_epochs=3,
    batch_size=8,
    min_steps_per_epoch=1,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def new_loop() -> TrainingLoop:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    split = Split(images, np.arange(20, dtype=np.int64) % 10)
    dataset = Dataset("noise", split, split, split)
    return build_loop(RECIPE, dataset, seed=0, device=torch.device("cpu"))


def restore(store: LocalStore, loop: TrainingLoop, run_id: str = "run") -> str:
    content = read_checkpoint(store)
    assert content is not None
    return restore_checkpoint(content, run_id, loop)


@pytest.fixture
def saved(store: LocalStore) -> TrainingLoop:
    """A loop after its first epoch, saved."""
    loop = new_loop()
    next(loop.run())
    save_checkpoint(store, "run", loop)
    return loop


def test_restored_run_is_where_it_was(store: LocalStore, saved: TrainingLoop) -> None:
    """Weights, average, optimiser and history come back bit for bit."""
    loop = new_loop()
    assert restore(store, loop) == "continuing after epoch 1"
    torch.testing.assert_close(loop.state_dict(), saved.state_dict(), atol=0, rtol=0)
    assert loop.history == saved.history
    assert [m.epoch for m in loop.run()] == [2, 3]


def test_run_saved_within_an_epoch_goes_on_there(store: LocalStore) -> None:
    """The steps that are left of the epoch follow, and its metrics are of all of it."""
    loop, other = new_loop(), new_loop()

    def save() -> None:
        if loop.sums.num_steps == 2 and len(loop.history) == 1:
            save_checkpoint(store, "run", loop, loop.sums.sum_over_workers())

    list(loop.run(save))
    assert restore(store, other) == "continuing after epoch 1 and 2 steps"
    steps: list[int] = []
    assert [m.epoch for m in other.run(lambda: steps.append(other.sums.num_steps))] == [2, 3]
    assert steps[0] == 3
    assert [m.train_loss for m in other.history] == [m.train_loss for m in loop.history]


def test_without_a_checkpoint_a_run_starts_at_its_start(store: LocalStore) -> None:
    """As does one whose folder does not exist."""
    assert read_checkpoint(store) is None
    assert read_checkpoint(LocalStore(f"{store.uri}/none")) is None


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "flipped", "header", "text", "list", "foreign"]
)
def test_unusable_checkpoint_is_passed_over_with_a_reason(damage: str, store: LocalStore) -> None:
    """Damaged or another run's: the run starts anew, untouched by it, and says why."""
    path = Path(store.uri, CHECKPOINT)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-100] ^= 1
    damaged = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "flipped": bytes(flipped),
        "header": content.replace(b"epoch", b"epocj", 1),
        "list": b"\x02\x00\x00\x00\x00\x00\x00\x00[]",
        "text": b"not a checkpoint, but long enough to have a header",
        "foreign": content,
    }
    path.write_bytes(damaged[damage])
    loop = new_loop()
    note = restore(store, loop, "run" if damage != "foreign" else "another")
    assert note.startswith("starting anew: ")
    assert loop.history == []
    torch.testing.assert_close(loop.state_dict(), new_loop().state_dict(), atol=0, rtol=0)


def test_disk_that_is_full_is_a_clear_error_and_keeps_the_last_checkpoint(
    store: LocalStore, saved: TrainingLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved before is still whole, and the error says what to do."""

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    next(saved.run())
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(UsageError, match=r"Cannot write .*No space left on device. Make room"):
        save_checkpoint(store, "run", saved)
    monkeypatch.undo()
    loop = new_loop()
    restore(store, loop)
    assert len(loop.history) == 1
    assert [path.name for path in Path(store.uri).iterdir()] == [CHECKPOINT]
