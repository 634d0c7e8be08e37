import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tyro

from mnist_ocr.digits.networks import build_network
from mnist_ocr.errors import JobFailedError, UsageError
from mnist_ocr.storage import open_store
from mnist_ocr.training import trials, tuning
from mnist_ocr.training.config import RecipeOverrides, TrainConfig, TuneConfig
from mnist_ocr.training.datasets import Dataset, Split
from mnist_ocr.training.metrics import EpochMetrics
from mnist_ocr.training.recipes import RECIPES, Recipe
from mnist_ocr.training.search import list_train_flags, list_widths, propose_overrides
from mnist_ocr.training.search_folder import (
    EndedTrial,
    Search,
    claim_folder,
    read_ended_trials,
    write_ended_trial,
)
from mnist_ocr.training.trials import Halving, Recorder
from mnist_ocr.training.tuning import tune

NUM_EPOCHS = 6


def history_of(*losses: float) -> list[EpochMetrics]:
    """Epochs with these validation losses."""
    return [
        EpochMetrics(epoch, 1.0, 0.5, loss, 0.9, 1e-3, 1.0, 1.0)
        for epoch, loss in enumerate(losses, 1)
    ]


@pytest.fixture
def dataset() -> Dataset:
    """300 images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), dtype=np.uint8)
    split = Split(images, np.arange(300, dtype=np.int64) % 10)
    return Dataset("noise", split, split, split)


@pytest.fixture
def new_search(tmp_path: Path) -> Callable[..., Search]:
    """Builds a search of three trials, with other values where given."""
    recipe = Recipe("mlp-8", "adam", 1e-3, num_epochs=2, batch_size=128, min_steps_per_epoch=1)

    def build(**values: Any) -> Search:
        known = {
            "output_uri": str(tmp_path / "search"),
            "dataset": "noise",
            "dataset_sha256": "0",
            "recipe": "small",
            "recipe_values": recipe,
            "seed": 0,
            "proposals": propose_overrides(recipe, 3, 0, 300),
            "num_gpus_per_trial": 0.0,
        }
        return Search(**known | values)

    return build


@pytest.mark.parametrize("name", RECIPES)
def test_every_proposal_can_be_trained(name: str) -> None:
    """The recipe itself comes first; the others stay around it and build their networks."""
    recipe = RECIPES[name]
    proposals = propose_overrides(recipe, 9, 0, 50_000)
    assert proposals[0] == RecipeOverrides()
    for proposal in proposals:
        tried = proposal.apply_to(recipe)
        assert 1 / 4.2 < tried.learning_rate / recipe.learning_rate < 4.2
        assert tried.batch_size / recipe.batch_size in (0.5, 1, 2)
        build_network(tried.architecture)
    tried_names = {name for proposal in proposals for name in RecipeOverrides.to_flags(proposal)}
    assert "--learning-rate" in tried_names
    assert "--augmentation" in tried_names or "--augmentation-strength" in tried_names


def test_seed_decides_what_is_tried() -> None:
    """The same seed gives the same list, whose beginning does not depend on its length."""
    first, again, longer, other = (
        propose_overrides(RECIPES["cnn"], num_trials, seed, 50_000)
        for num_trials, seed in ((8, 0), (8, 0), (12, 0), (8, 1))
    )
    assert first == again == longer[:8]
    assert first[1:] != other[1:]


def test_no_batch_exceeds_the_training_images() -> None:
    """Twice the recipe's batch is not tried where there are too few images for it."""
    recipe = RECIPES["cnn"]
    proposals = propose_overrides(recipe, 40, 0, recipe.batch_size)
    assert max(p.apply_to(recipe).batch_size for p in proposals) == recipe.batch_size


@pytest.mark.parametrize(
    ("architecture", "widths"),
    [
        ("cnn", ["cnn-16", "cnn-24", "cnn", "cnn-48"]),
        ("cnn-16", ["cnn-8", "cnn-12", "cnn-16", "cnn-24"]),
        ("mlp-128-90", ["mlp-64-45", "mlp-128-90", "mlp-256-180"]),
        ("lenet", ["lenet"]),
    ],
)
def test_width_scales_the_architecture(architecture: str, widths: list[str]) -> None:
    """The kind of network stays; its layers grow and shrink together."""
    assert list_widths(architecture) == widths


def test_best_flags_train_the_best_configuration() -> None:
    """`train` makes the same recipe of them, dataset, seed and number of epochs included."""
    config = TuneConfig(dataset="my scans", recipe="cnn", num_epochs=4, seed=3, label_column="y")
    overrides = RecipeOverrides(learning_rate=0.004, architecture="cnn-24", batch_size=64)
    flags = list_train_flags(config, overrides)
    parsed = tyro.cli(TrainConfig, args=flags, config=(tyro.conf.OmitArgPrefixes,))
    assert parsed.build_recipe() == replace(overrides, num_epochs=4).apply_to(RECIPES["cnn"])
    assert (parsed.dataset, parsed.seed, parsed.label_column) == ("my scans", 3, "y")


@pytest.fixture
def tuned(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuning.Tuning]:
    """Runs a search of the widest recipe whose trials all ended as given; Ray is not needed."""
    monkeypatch.setattr(tuning, "load_dataset", lambda config: dataset)

    def run(*ended: EndedTrial) -> tuning.Tuning:
        config = TuneConfig(
            dataset="noise",
            recipe="mlp5-sgd",
            output_uri=str(tmp_path / "it's here"),
            num_trials=len(ended),
            num_epochs=NUM_EPOCHS,
        )
        search = tuning._plan_search(config, dataset, config.output_uri)
        for trial, end in enumerate(ended):
            write_ended_trial(search, trial, end)
        return tune(config)

    return run


def test_only_a_finished_trial_can_be_the_best(tuned: Callable[..., tuning.Tuning]) -> None:
    """The table starts with it; the others follow by how they ended, then by loss."""
    result = tuned(
        EndedTrial("finished", history_of(*[0.5] * NUM_EPOCHS)),
        EndedTrial("diverged", []),
        EndedTrial("stopped", history_of(0.1)),
        EndedTrial("finished", history_of(*[0.4] * NUM_EPOCHS)),
        EndedTrial("stopped", history_of(0.09)),
    )
    assert [trial.trial for trial in result.trials] == [3, 0, 4, 2, 1]
    assert (result.best_trial, result.validation_loss) == (3, 0.4)
    assert (result.recipe_validation_loss, result.recipe_validation_accuracy) == (0.5, 0.9)


def test_table_is_readable_and_ends_with_the_command(tuned: Callable[..., tuning.Tuning]) -> None:
    """One line of at most 100 columns per trial, however wide its network's name; all is JSON."""
    finished = EndedTrial("finished", history_of(*[12.0] * NUM_EPOCHS))
    result = tuned(*[finished] * 12, EndedTrial("diverged", []))
    lines = result.format().splitlines()
    table = lines[:14]
    assert max(map(len, table)) <= 100
    assert "mlp-1024-512-256-128" in result.format()
    assert table[-1].split()[-4:] == ["0", "-", "-", "diverged"]
    assert shlex.split(lines[-1]) == ["mnist-ocr", "train", *result.best_flags]
    folder = Path(result.output_uri)
    assert len((folder / "trials.csv").read_text().splitlines()) == 14
    best = json.loads((folder / "best.json").read_text())
    assert best["best_command"] == result.best_command
    assert json.loads(json.dumps(asdict(result)))["trials"][0]["status"] == "finished"


def test_search_without_a_finished_trial_says_so(tuned: Callable[..., tuning.Tuning]) -> None:
    """There is nothing to recommend where everything diverged."""
    with pytest.raises(JobFailedError, match="None of the 2 trials finished"):
        tuned(EndedTrial("diverged", []), EndedTrial("diverged", history_of(1.0)))


def test_batch_larger_than_the_dataset_is_refused(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training would."""
    few = replace(dataset, train=Split(dataset.train.images[:20], dataset.train.labels[:20]))
    monkeypatch.setattr(tuning, "load_dataset", lambda config: few)
    with pytest.raises(UsageError, match="exceeds the 20 that noise has"):
        tune(TuneConfig(output_uri=str(tmp_path)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 1}, r"its seed differs \(0, now 1\)"),
        ({"dataset_sha256": "1"}, "dataset_sha256 differs"),
        ({"recipe": "other"}, r"its recipe differs \(small, now other\)"),
        ({"proposals": [RecipeOverrides()]}, r"its num_trials differs \(3, now 1\)"),
        ({"proposals": [RecipeOverrides()] * 3}, r"its proposals differs\."),
    ],
)
def test_folder_of_another_search_is_refused(
    new_search: Callable[..., Search], values: dict[str, Any], message: str
) -> None:
    """What differs is named; the same search goes on."""
    search = new_search()
    store = open_store(search.output_uri)
    claim_folder(store, search)
    claim_folder(store, new_search(num_gpus_per_trial=0.5))
    with pytest.raises(UsageError, match=message):
        claim_folder(store, new_search(**values))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_damaged_description_says_what_to_do(
    new_search: Callable[..., Search], content: bytes
) -> None:
    """Whose trials they are cannot be told from it."""
    search = new_search()
    store = open_store(search.output_uri)
    store.write("search.json", content)
    with pytest.raises(UsageError, match=r"search\.json is damaged\. Delete it"):
        claim_folder(store, search)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"history": [{"epoch": 1}]}'])
def test_damaged_record_is_passed_over(
    new_search: Callable[..., Search], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its trial runs again; so does one that another search left."""
    search = new_search()
    store = open_store(search.output_uri)
    ended = EndedTrial("finished", history_of(0.5))
    write_ended_trial(search, 0, ended)
    store.write("trials/001.json", content)
    write_ended_trial(new_search(seed=1), 2, ended)
    assert read_ended_trials(store, search) == {0: ended}
    assert "001.json is damaged" in caplog.text


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trials that run in this process report."""
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(trials.ray, "get", lambda value: value)
    monkeypatch.setattr(trials.tune, "report", reported.append)
    return reported


def test_interrupted_trial_goes_on(
    new_search: Callable[..., Search], dataset: Dataset, reports: list[dict[str, Any]]
) -> None:
    """A second worker reports the epochs of the first once more, and trains the others only."""
    search = new_search()
    trials._run_trial({"trial": 1}, search, dataset)
    first = list(reports)
    assert [report["epoch"] for report in first] == [1, 2]
    reports.clear()
    trials._run_trial({"trial": 1}, search, dataset)
    assert reports == first  # the durations, too: nothing was trained


def test_divergence_ends_a_trial_without_an_error(
    new_search: Callable[..., Search], dataset: Dataset, reports: list[dict[str, Any]]
) -> None:
    """The trial is recorded as diverged."""
    search = new_search(proposals=[RecipeOverrides(learning_rate=1e30)])
    trials._run_trial({"trial": 0}, search, dataset)
    ended: dict[int, EndedTrial] = {}
    recorder, trial = Recorder(search, ended), SimpleNamespace(config={"trial": 0})
    for report in reports:
        recorder.on_trial_result(0, [], trial, report)
    recorder.on_trial_complete(0, [], trial)
    recorder.on_step_end(0, [])
    assert ended[0].status == "diverged"
    assert read_ended_trials(open_store(search.output_uri), search) == ended


def decide(scheduler: Halving, trial: int, *losses: float) -> list[str]:
    """What becomes of a trial after each epoch."""
    new: Any = SimpleNamespace(trial_id=str(trial), config={"trial": trial})
    controller: Any = None
    scheduler.on_trial_add(controller, new)
    return [
        scheduler.on_trial_result(controller, new, {"epoch": i + 1, "validation_loss": loss})
        for i, loss in enumerate(losses)
    ]


def test_hopeless_trials_are_stopped_but_not_the_recipe() -> None:
    """From a third of the epochs on, the worse half is; earlier trials of the folder count."""
    ended = {
        1: EndedTrial("finished", history_of(*[0.2] * NUM_EPOCHS)),
        2: EndedTrial("diverged", []),
    }
    scheduler = Halving(NUM_EPOCHS, ended)
    assert decide(scheduler, 3, 0.9, 0.9) == ["CONTINUE", "STOP"]
    assert decide(scheduler, 4, 0.9, 0.1, 0.1, 0.9) == ["CONTINUE"] * 3 + ["STOP"]
    assert set(decide(scheduler, 0, *[0.9] * NUM_EPOCHS)) == {"CONTINUE"}
