"""The trials of a search, run by Ray Tune side by side, the hopeless ones not to their end."""

import logging
import math
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from mnist_ocr.errors import StorageUnreachableError, UsageError
from mnist_ocr.training.checkpoints import (
    CHECKPOINT,
    read_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from mnist_ocr.training.datasets import Dataset, Split
from mnist_ocr.training.loop import build_loop
from mnist_ocr.training.metrics import EpochMetrics
from mnist_ocr.training.resources import list_resources
from mnist_ocr.training.search_folder import (
    EndedTrial,
    Search,
    open_trial_store,
    write_ended_trial,
)

logger = logging.getLogger(__name__)

METRIC = "validation_loss"

FIRST_COMPARISON = 1 / 3
"""Share of a trial's epochs before it may be stopped. A one-cycle rate rises until 30%: before,
the order of trials says little about the end (mlp-128 on MNIST, 14 trials of 12 epochs: rank
correlation with the final loss 0.2 after 2 epochs, 0.9 after 4)."""

REDUCTION_FACTOR = 2
"""One in so many goes on at a comparison; the next is at this multiple of the first's epochs."""

MAX_FAILURES = 3
"""Deaths of a trial's worker before the trial is given up."""

RAY_TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints to stdout even when told to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the search's folder holds what theirs would
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # one line of ours instead of a traceback
}


def run_trials(search: Search, dataset: Dataset, ended: dict[int, EndedTrial]) -> None:
    """Run the trials that have not ended, as many side by side as the cluster has room for.

    Args:
        search: What the trials are of.
        dataset: What they train on; its test images never reach them.
        ended: Takes each trial that ends. One that fails, since its workers died, is left out.

    Raises:
        UsageError: The cluster has no room for a trial, or the folder cannot be written.
        StorageUnreachableError: The folder's store does not answer.
    """
    resources = plan_trial(search)
    for name, value in RAY_TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    visible = replace(dataset, test=Split(dataset.test.images[:0], dataset.test.labels[:0]))
    trainable = partial(_run_trial, search=search, dataset=ray.put(visible))
    pending = [trial for trial in range(len(search.proposals)) if trial not in ended]
    with tempfile.TemporaryDirectory() as run_folder:  # what Ray Tune writes is not needed
        tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"trial": tune.grid_search(pending)},
            tune_config=tune.TuneConfig(
                scheduler=Halving(search.recipe_values.num_epochs, ended),
                reuse_actors=True,  # a new one would import torch again
            ),
            run_config=tune.RunConfig(
                storage_path=run_folder,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[Recorder(search, ended)],
                verbose=0,
            ),
        ).fit()


def plan_trial(search: Search) -> dict[str, float]:
    """Decide what a trial reserves.

    Raises:
        UsageError: The cluster has no room for one, or cannot share a local folder.
    """
    nodes = list_resources("output_uri", search.output_uri)
    share = search.num_gpus_per_trial
    if share > 1 and share % 1:
        raise UsageError(f"num_gpus_per_trial is {share}. Pass a share up to 1 or a whole number.")
    resources = {"CPU": 1.0, "GPU": share}
    if not any(
        all(node.get(kind, 0) >= count for kind, count in resources.items()) for node in nodes
    ):
        raise UsageError(
            f"A trial needs 1 CPU and {share:g} GPUs of one machine, and the Ray cluster has no "
            "such machine. Pass a smaller num_gpus_per_trial, or start one first."
        )
    return resources


def _run_trial(
    parameters: Mapping[str, int], search: Search, dataset: "ray.ObjectRef[Dataset]"
) -> None:
    """Train on a worker and report each epoch, those before an interruption once more."""
    trial = parameters["trial"]
    if not search.num_gpus_per_trial:
        torch.set_num_threads(1)
    loop = build_loop(
        search.build_recipe(trial),
        ray.get(dataset),
        seed=search.seed,
        device=torch.device("cuda" if search.num_gpus_per_trial else "cpu"),
    )
    store, run_id = open_trial_store(search, trial), f"{search.search_id}-{trial}"
    if (content := read_checkpoint(store)) is not None:
        restore_checkpoint(content, run_id, loop)
    for metrics in loop.history:
        tune.report(asdict(metrics))
    epochs = loop.run()
    while True:
        try:
            metrics = next(epochs)
        except StopIteration:
            return
        except UsageError:  # diverged
            tune.report({METRIC: math.nan})
            return
        with suppress(UsageError, StorageUnreachableError):  # only a restart would miss it
            save_checkpoint(store, run_id, loop)
        tune.report(asdict(metrics))


class Halving(ASHAScheduler):
    """Stops the worse half at each comparison, but never the recipe, which has to be beaten.

    Args:
        num_epochs: Longest training of a trial.
        ended: Earlier trials, with which later ones are compared as well.
    """

    def __init__(self, num_epochs: int, ended: Mapping[int, EndedTrial]) -> None:
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="min",
            max_t=num_epochs,
            grace_period=math.ceil(num_epochs * FIRST_COMPARISON),
            reduction_factor=REDUCTION_FACTOR,
        )
        tune_controller: Any = None  # asked for, not used
        for trial, end in ended.items():
            earlier: Any = SimpleNamespace(trial_id=f"ended-{trial}", config={"trial": trial})
            self.on_trial_add(tune_controller, earlier)
            for metrics in end.history:
                self.on_trial_result(tune_controller, earlier, asdict(metrics))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on after an epoch."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["trial"] == 0 else decision


class Recorder(tune.Callback):
    """Writes each trial that ends to the search's folder, from the driver.

    Args:
        search: What the trials are of.
        ended: Takes those that end.
    """

    def __init__(self, search: Search, ended: dict[int, EndedTrial]) -> None:
        self.search, self.ended = search, ended
        self.histories: dict[int, list[EpochMetrics]] = {}
        self.diverged: set[int] = set()
        self.ending: list[int] = []

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep an epoch; one that is told again, after a restart, replaces the first."""
        number = trial.config["trial"]
        if "epoch" not in result:
            self.diverged.add(number)
            return
        metrics = EpochMetrics(**{field.name: result[field.name] for field in fields(EpochMetrics)})
        self.histories.setdefault(number, [])[metrics.epoch - 1 :] = [metrics]

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Remember a trial until the step ends: Ray Tune would swallow an error from here."""
        self.ending.append(trial.config["trial"])

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Say that a trial is tried again."""
        logger.warning("trial %d broke off and is tried again", trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Say that a trial is given up."""
        reason = str(trial.get_error() or "its worker died").strip().splitlines()[-1]
        logger.warning("trial %d failed: %s", trial.config["trial"], reason)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Write the trials that ended in this step."""
        for trial in self.ending:
            self._record(trial)
        self.ending.clear()

    def _record(self, trial: int) -> None:
        history = self.histories.get(trial, [])
        status = "finished" if len(history) == self.search.recipe_values.num_epochs else "stopped"
        if trial in self.diverged:
            status = "diverged"
        self.ended[trial] = EndedTrial(status, history)
        write_ended_trial(self.search, trial, self.ended[trial])
        open_trial_store(self.search, trial).delete(CHECKPOINT)
        flags = " ".join(self.search.proposals[trial].to_flags()) or "the recipe"
        accuracy = f", validation accuracy {history[-1].validation_accuracy:.2%}" if history else ""
        logger.info(
            "trial %d (%s) %s after %d epochs%s", trial, flags, status, len(history), accuracy
        )
