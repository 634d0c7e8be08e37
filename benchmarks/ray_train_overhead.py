"""What Ray Train costs once it runs: seconds per epoch of the CNN, against the bare loop.

    .venv/bin/python benchmarks/ray_train_overhead.py --data-root data

Sides, alternated, each in a fresh process, all with the same global batches:

    bare      the loop alone, in a script, all cores as threads
    ray-1     `mnist-ocr train` with one worker, which has the same threads and settings
    ray-2     `mnist-ocr train` with two workers that share the cores

An epoch's seconds are those of its training and validation; the first epoch, which warms up, is
left out. The last line of stdout is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import describe_machine

NUM_EPOCHS = 4
SIDES = ("bare", "ray-1", "ray-2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--side", choices=["bare"], help="run it in this process")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_bare(arguments.data_root)))
        return
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side, epochs in seconds.items():
            epochs += run_side(side, arguments.data_root)[1:]
            print(side, epochs, file=sys.stderr)
    medians = {side: statistics.median(epochs) for side, epochs in seconds.items()}
    print("| side | s per epoch, median | against the bare loop |")
    print("|---|---|---|")
    for side, median in medians.items():
        print(f"| `{side}` | {median:.2f} | {median / medians['bare'] - 1:+.1%} |")
    print(json.dumps({"seconds_per_epoch": medians, **describe_machine()}))


def run_side(side: str, data_root: str) -> list[float]:
    """Seconds of each epoch, in a fresh process."""
    if side == "bare":
        from mnist_ocr.training.trainer import WORKER_ENVIRONMENT

        command = [sys.executable, __file__, "--side", "bare", "--data-root", data_root]
        environment = {**os.environ, **WORKER_ENVIRONMENT}
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        return [float(each) for each in json.loads(done.stdout)]
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnist_ocr", "train", "--num-workers", side[-1]]
        command += ["--num-epochs", str(NUM_EPOCHS), "--data-root", data_root]
        subprocess.run([*command, "--model-uri", folder], check=True, stdout=subprocess.DEVNULL)
        lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines]


def run_bare(data_root: str) -> list[float]:
    """The loop as a script would run it."""
    from dataclasses import replace

    import torch

    from mnist_ocr.training.config import DatasetConfig
    from mnist_ocr.training.datasets import load_dataset
    from mnist_ocr.training.loop import build_loop
    from mnist_ocr.training.recipes import RECIPES
    from mnist_ocr.training.resources import MAX_CPUS_PER_WORKER

    torch.set_num_threads(min(os.cpu_count() or 1, MAX_CPUS_PER_WORKER))
    loop = build_loop(
        replace(RECIPES["cnn"], num_epochs=NUM_EPOCHS),
        load_dataset(DatasetConfig(data_root=data_root)),
        seed=0,
        device=torch.device("cpu"),
    )
    return [metrics.seconds for metrics in loop.run()]


if __name__ == "__main__":
    main()
