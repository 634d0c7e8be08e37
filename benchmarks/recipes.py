"""Every recipe on MNIST, with several seeds: the accuracy that `mnist-ocr recipes` states.

    .venv/bin/python benchmarks/recipes.py --data-root data

The weights are those after the last epoch of a fixed schedule, and each run reads the test images
once. `--write` records the figures in `mnist_ocr/training/measured.json`. The last line of stdout
is JSON.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import describe_machine

from mnist_ocr.session import connect_ray
from mnist_ocr.training import listing
from mnist_ocr.training.config import TrainConfig
from mnist_ocr.training.recipes import RECIPES
from mnist_ocr.training.trainer import train

REPORTED = {
    "mlp-adam": 0.97,
    "mlp5-sgd": 0.9816,
    "ffn-adam": 0.9757,
    "cnn-adam": 0.9802,
    "mlp-128-90-50": 0.9726,
    "mlp-128": 0.97,
}
"""Test accuracy that the classifiers which this project grew out of were reported to reach."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--write", action="store_true", help="record the figures in the package")
    arguments = parser.parse_args()
    connect_ray()
    measured = {}
    for name in arguments.recipes:
        measured[name] = measure(name, arguments.num_seeds, arguments.data_root)
        print(name, measured[name], file=sys.stderr)
    print("| recipe | test accuracy, mean (sd) | reported once | training, s | images/s |")
    print("|---|---|---|---|---|")
    for name, row in measured.items():
        reported = f"{REPORTED[name]:.2%}" if name in REPORTED else ""
        print(
            f"| `{name}` | {row['test_accuracy']:.2%} ({row['test_accuracy_sd']:.2%}) | {reported} "
            f"| {row['train_s']:.0f} | {row['images_per_s']:,.0f} |"
        )
    document = {"machine": describe_machine(), "recipes": measured}
    if arguments.write:
        path = Path(listing.__file__).with_name(listing.MEASURED)
        before = json.loads(path.read_text())["recipes"]
        merged = {name: (before | measured)[name] for name in RECIPES if name in before | measured}
        path.write_text(json.dumps({**document, "recipes": merged}, indent=2) + "\n")
    print(json.dumps(document))


def measure(name: str, num_seeds: int, data_root: str) -> dict[str, float]:
    """Mean and deviation of the test accuracy over the seeds, and the median speed."""
    with TemporaryDirectory() as folder:
        runs = [
            asdict(
                train(
                    TrainConfig(
                        recipe=name, seed=seed, data_root=data_root, model_uri=f"{folder}/{seed}"
                    )
                )
            )
            for seed in range(num_seeds)
        ]
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "test_accuracy": statistics.mean(accuracies),
        "test_accuracy_sd": statistics.stdev(accuracies) if num_seeds > 1 else 0.0,
        "num_seeds": num_seeds,
        "train_s": statistics.median(run["train_s"] for run in runs),
        "images_per_s": statistics.median(run["images_per_s"] for run in runs),
    }


if __name__ == "__main__":
    main()
