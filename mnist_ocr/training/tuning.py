"""Tuning: search for better values of a recipe, on validation images only.

The search is planned here, kept in its folder (`search_folder.py`), and run by Ray Tune
(`trials.py`). A search that was interrupted goes on: trials that have ended are not run again,
and the others continue after their last epoch.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict

from mnist_ocr.errors import JobFailedError, UsageError
from mnist_ocr.storage import open_store
from mnist_ocr.training.config import RecipeOverrides, TuneConfig
from mnist_ocr.training.datasets import Dataset, check_trainable, load_dataset
from mnist_ocr.training.recipes import get_recipe
from mnist_ocr.training.search import (
    Tuning,
    format_command,
    format_csv,
    list_train_flags,
    propose_overrides,
    rank_trials,
    summarize_trial,
)
from mnist_ocr.training.search_folder import (
    BEST,
    TABLE,
    EndedTrial,
    Search,
    claim_folder,
    read_ended_trials,
)

logger = logging.getLogger(__name__)


def tune(config: TuneConfig) -> Tuning:
    """Search for better values of a recipe on Ray, or go on with a search.

    Joins the Ray cluster of this process, or that of RAY_ADDRESS, or starts one on this machine;
    a search whose trials have all ended needs none.

    Raises:
        UsageError: The config does not fit the dataset, the cluster, or the search in the folder.
        DatasetUnavailableError: The dataset cannot be downloaded.
        StorageUnreachableError: The folder cannot be written for now.
        JobFailedError: No trial finished.
    """
    store = open_store(config.output_uri or f"tune/{config.dataset_name}-{config.recipe}")
    dataset = load_dataset(config)
    check_trainable(dataset)
    search = _plan_search(config, dataset, store.uri)
    claim_folder(store, search)
    ended = read_ended_trials(store, search)
    if len(ended) < config.num_trials:
        # Ray Tune takes seconds to import, and a search that has ended needs none of it
        from mnist_ocr.session import connect_ray
        from mnist_ocr.training.trials import run_trials

        connect_ray()
        logger.info(
            "tuning %s on %d images of %s: %d trials, of which %d have ended",
            *(config.recipe, len(dataset.train.labels), dataset.name),
            *(config.num_trials, len(ended)),
        )
        run_trials(search, dataset, ended)
    tuning = _summarize(config, search, ended)
    store.write(TABLE, format_csv(tuning.trials).encode())
    best = {name: value for name, value in asdict(tuning).items() if name != "trials"}
    store.write(BEST, json.dumps(best, indent=1).encode())
    return tuning


def _plan_search(config: TuneConfig, dataset: Dataset, output_uri: str) -> Search:
    recipe = RecipeOverrides(num_epochs=config.num_epochs).apply_to(get_recipe(config.recipe))
    num_images = len(dataset.train.labels)
    if recipe.batch_size > num_images:
        raise UsageError(
            f"A batch of {recipe.batch_size} images exceeds the {num_images} that {dataset.name} "
            "has to train on. Pass another recipe."
        )
    return Search(
        output_uri=output_uri,
        dataset=dataset.name,
        dataset_sha256=dataset.describe()["sha256"],
        recipe=config.recipe,
        recipe_values=recipe,
        seed=config.seed,
        proposals=propose_overrides(recipe, config.num_trials, config.seed, num_images),
        num_gpus_per_trial=config.num_gpus_per_trial,
    )


def _summarize(config: TuneConfig, search: Search, ended: Mapping[int, EndedTrial]) -> Tuning:
    failed = EndedTrial("failed", [])
    trials = []
    for trial in range(config.num_trials):
        end = ended.get(trial, failed)
        trials.append(summarize_trial(trial, search.build_recipe(trial), end.status, end.history))
    own, ranked = trials[0], rank_trials(trials)
    best = ranked[0]
    if best.status != "finished":
        raise JobFailedError(
            f"None of the {config.num_trials} trials finished; the best one {best.status}. The "
            "same command tries those that failed again."
        )
    is_finished = own.status == "finished"
    flags = list_train_flags(config, search.proposals[best.trial])
    return Tuning(
        output_uri=search.output_uri,
        dataset=search.dataset,
        recipe=search.recipe,
        num_trials=config.num_trials,
        best_trial=best.trial,
        best_flags=flags,
        best_command=format_command(flags),
        validation_accuracy=best.validation_accuracy,
        validation_loss=best.validation_loss,
        recipe_validation_accuracy=own.validation_accuracy if is_finished else None,
        recipe_validation_loss=own.validation_loss if is_finished else None,
        trials=ranked,
    )
