"""Seconds of training to 99.0% and to 99.5% of MNIST's test images.

    .venv/bin/python benchmarks/time_to_accuracy.py --data-root data

For each target a schedule of fixed length, chosen on validation images, is run to its end with
several seeds, as the command that a user types; the test images are read once, after it. Stated are
the loop's seconds (all epochs, their validation included) and, beside them, what the rest of the
command takes: imports, Ray's start, reading the data, writing the model, Ray's end. The last line
of stdout is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

from machine import describe_machine

TARGETS = {
    0.99: (
        "--num-epochs 2 --batch-size 256 --learning-rate 0.02 --ema-decay 0.995 "
        "--augmentation-strength 0.7 --precision bfloat16"
    ),
    0.995: "--num-epochs 12 --precision bfloat16",
}
"""Target accuracy -> flags of `mnist-ocr train --recipe cnn`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--targets", nargs="+", type=float, default=list(TARGETS))
    parser.add_argument("--use-gpu", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for target in arguments.targets:
        flags = TARGETS[target]
        runs = [run(flags, seed, arguments) for seed in range(arguments.num_seeds)]
        accuracies = [each["test_accuracy"] for each in runs]
        results[target] = {
            "flags": flags,
            "test_accuracy": statistics.mean(accuracies),
            "test_accuracy_sd": statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
            "num_reached": sum(accuracy >= target for accuracy in accuracies),
            "num_seeds": len(runs),
            "loop_s": statistics.median(each["train_s"] for each in runs),
            "rest_s": statistics.median(each["wall_s"] - each["train_s"] for each in runs),
        }
        print(target, results[target], file=sys.stderr)
    print(
        "| target | flags | test accuracy, mean (sd) | seeds at it | loop | rest of the command |"
    )
    print("|---|---|---|---|---|---|")
    for target, row in results.items():
        print(
            f"| {target:.1%} | `{row['flags']}` | {row['test_accuracy']:.2%} "
            f"({row['test_accuracy_sd']:.2%}) | {row['num_reached']} of {row['num_seeds']} "
            f"| {row['loop_s']:.1f} s | {row['rest_s']:.1f} s |"
        )
    print(json.dumps({"targets": results, **describe_machine()}))


def run(flags: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """The command's result, and the seconds that all of it took."""
    command = [sys.executable, "-m", "mnist_ocr", "train", "--recipe", "cnn", *flags.split()]
    command += ["--seed", str(seed), "--data-root", arguments.data_root]
    command += ["--use-gpu"] if arguments.use_gpu else []
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--model-uri", f"{folder}/model"], stdout=subprocess.PIPE, check=True
        )
        wall_s = time.perf_counter() - start
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_s": wall_s}


if __name__ == "__main__":
    main()
