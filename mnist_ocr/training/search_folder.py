"""A search's folder, local or on S3: all that it needs to go on.

    search.json                          what is searched; another search is refused
    trials/000.json                      a trial that has ended, written once
    trials/001/checkpoint.safetensors    one that has not: its last epoch
    trials.csv, best.json                what was found

Ray Tune could restore a search itself; but it unpickles what lies in the folder, starts anew
without a word where its state is damaged, and forgets what the early stopping has seen.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import Store, open_store
from mnist_ocr.training.config import RecipeOverrides
from mnist_ocr.training.metrics import EpochMetrics
from mnist_ocr.training.recipes import Recipe

logger = logging.getLogger(__name__)

SEARCH, TABLE, BEST = "search.json", "trials.csv", "best.json"


@dataclass(frozen=True)
class EndedTrial:
    """A trial that is over: `finished`, `stopped` or `diverged` after these epochs."""

    status: str
    history: list[EpochMetrics]


@dataclass(frozen=True)
class Search:
    """What every trial is told."""

    output_uri: str
    """The search's folder."""
    dataset: str
    dataset_sha256: str
    recipe: str
    recipe_values: Recipe
    """Those of the recipe, and how long a trial trains at most."""
    seed: int
    proposals: list[RecipeOverrides]
    """The configuration of each trial."""
    num_gpus_per_trial: float

    def describe(self) -> dict[str, Any]:
        """All that the results depend on, as JSON; what explains other differences comes first."""
        return {
            "dataset": self.dataset,
            "dataset_sha256": self.dataset_sha256,
            "recipe": self.recipe,
            "num_epochs": self.recipe_values.num_epochs,
            "num_trials": len(self.proposals),
            "seed": self.seed,
            "recipe_values": asdict(self.recipe_values),
            "proposals": [proposal.to_flags() for proposal in self.proposals],
        }

    @property
    def search_id(self) -> str:
        """A sha256 of the description."""
        return hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()

    def build_recipe(self, trial: int) -> Recipe:
        """The recipe of a trial."""
        return self.proposals[trial].apply_to(self.recipe_values)


def claim_folder(store: Store, search: Search) -> None:
    """Write down what is searched, in a new folder.

    Raises:
        UsageError: The folder holds another search, or what it holds cannot be told.
    """
    description = search.describe()
    try:
        earlier = json.loads(store.read(SEARCH))
        differing = [name for name, value in description.items() if earlier[name] != value]
    except ObjectError as error:
        if error.status != "missing":
            raise
        store.write(SEARCH, json.dumps(description, indent=1).encode())
        return
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{store.uri_of(SEARCH)} is damaged. Delete it to go on with the trials beside it, or "
            "pass another --output-uri."
        ) from error
    if differing:
        name = differing[0]
        values = f" ({earlier[name]}, now {description[name]})"
        raise UsageError(
            f"{store.uri} holds the trials of another search: its {name} differs"
            f"{'' if name in ('recipe_values', 'proposals') else values}. "
            "Pass another --output-uri."
        )


def read_ended_trials(store: Store, search: Search) -> dict[int, EndedTrial]:
    """The trials of this search that have ended; damaged records are passed over."""
    ended = {}
    for trial in range(len(search.proposals)):
        try:
            record = json.loads(store.read(_record_name(trial)))
            history = [EpochMetrics(**metrics) for metrics in record["history"]]
            if record["search_id"] == search.search_id:
                ended[trial] = EndedTrial(record["status"], history)
        except ObjectError as error:
            if error.status != "missing":
                raise
        except (ValueError, TypeError, KeyError):
            address = store.uri_of(_record_name(trial))
            logger.warning("%s is damaged; this trial runs again", address)
    return ended


def write_ended_trial(search: Search, trial: int, ended: EndedTrial) -> None:
    """Record that a trial has ended.

    Raises:
        UsageError: The folder cannot be written, or the disk is full.
        StorageUnreachableError: The store does not answer.
    """
    record = {"search_id": search.search_id, **asdict(ended)}
    open_store(search.output_uri).write(_record_name(trial), json.dumps(record).encode())


def open_trial_store(search: Search, trial: int) -> Store:
    """Where a trial keeps its checkpoint."""
    return open_store(f"{search.output_uri}/trials/{trial:03d}")


def _record_name(trial: int) -> str:
    return f"trials/{trial:03d}.json"
