"""What benchmarks with several sides share: inputs, runs in turn, rates, checks, tables.

A side is a function that labels a folder and returns its `Timeline`. Sides alternate, each run in
a fresh process. A side's rate is that of the images from its first result to its last: start-up is
not in it, and stands beside it as the seconds to the first result. By then the other cores are
about to have results of that size, too, and these do not count. (The slope of a line through the
results will not do: where results grow, as our shards do, it is too low.)
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe_machine
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]

Timeline = list[tuple[float, int]]
"""(seconds since the epoch, images done since the last entry), in order. A first entry of 0 images
is the start of the side; without one it began with its process, imports included."""

Sides = Mapping[str, Callable[[Path], Timeline]]
"""By name; each writes Parquet with `path` and `digit` to the folder of its name."""

Runs = dict[str, list[dict[str, float]]]
"""What each run of each side came to."""


def parse_arguments(description: str, sides: Sides, **flags: Any) -> argparse.Namespace:
    """The flags of all such benchmarks; with `--side` that side runs, and the process ends.

    Args:
        description: The script's docstring.
        sides: Of the script.
        flags: More flags: name -> (default, help).
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--num-images", type=int, default=60_000, help="fewer for a trial")
    for name, (default, text) in flags.items():
        parser.add_argument(f"--{name}", default=default, type=type(default), help=text)
    parser.add_argument("--side", choices=sides, help="run one side only, in this process")
    parser.add_argument("folder", nargs="?", help="of images, model and output (with --side)")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(sides[arguments.side](Path(arguments.folder))))
        sys.exit()
    return arguments


def load_images(data_root: str, num_images: int) -> NDArray[np.uint8]:
    """MNIST's training images, (N, 28, 28)."""
    from mnist_ocr.training.config import DatasetConfig
    from mnist_ocr.training.datasets import load_dataset

    dataset = load_dataset(DatasetConfig(data_root=data_root))
    return np.concatenate([dataset.train.images, dataset.validation.images])[:num_images]


def encode_png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def write_images(folder: Path, data_root: str, num_images: int) -> None:
    """MNIST's training images as PNG files."""
    folder.mkdir(parents=True)
    for i, image in enumerate(load_images(data_root, num_images)):
        (folder / f"{i:05d}.png").write_bytes(encode_png(image))


def write_untrained_mlp(folder: Path) -> None:
    """An untrained 784-128-10 network, which costs next to nothing: the rest is measured."""
    import torch

    from mnist_ocr.digits.calibration import Calibration
    from mnist_ocr.digits.model import save_model
    from mnist_ocr.digits.networks import build_network

    torch.manual_seed(0)
    save_model(
        str(folder),
        build_network("mlp-128"),
        architecture="mlp-128",
        mean=0.1307,
        std=0.3081,
        calibration=Calibration(),
        metrics={},
        training={},
        data={},
    )


def run_in_turn(
    sides: Iterable[str], folder: Path, rounds: int, pythons: Mapping[str, str] | None = None
) -> Runs:
    """Every side of the running script, `rounds` times.

    Args:
        sides: Their names, the first the one that the others are compared with.
        folder: With their inputs; each writes into a folder of its name.
        rounds: How many runs of each.
        pythons: Interpreters of sides that need another one than this.
    """
    runs: Runs = {side: [] for side in sides}
    for round_number in range(rounds):
        for side, results in runs.items():
            shutil.rmtree(folder / side, ignore_errors=True)
            results.append(_run_side(side, folder, (pythons or {}).get(side, sys.executable)))
            print(f"round {round_number + 1}, {side}: {results[-1]}", file=sys.stderr)
    return runs


def _run_side(side: str, folder: Path, python: str) -> dict[str, float]:
    command = [python, sys.argv[0], "--side", side, str(folder)]
    # an interpreter of a side's own has neither the package nor, in its workers, these scripts
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    started = time.time()
    done = subprocess.run(command, capture_output=True, env=environment, timeout=1200)
    ended = time.time()
    assert not done.returncode, done.stderr.decode()
    timeline = json.loads(done.stdout.splitlines()[-1])
    if not timeline[0][1]:
        started, _ = timeline.pop(0)
    (first_time, first_size), (last_time, _) = timeline[0], timeline[-1]
    counted = sum(size for _, size in timeline) - first_size * (os.cpu_count() or 1)
    # 0 where there is nothing to measure: no images, or hardly more than one result a core
    rate = counted / (last_time - first_time) if counted > 0 else 0.0
    return {"images_per_s": rate, "first_s": first_time - started, "wall_s": ended - started}


def label(input_uri: Path | str, output: Path, model: Path | None = None, *flags: str) -> Timeline:
    """`mnist-ocr label`, as a user types it; a shard is done when its file is there."""
    command = [sys.executable, "-m", "mnist_ocr", "label", str(input_uri), str(output), *flags]
    started = time.time()
    subprocess.run([*command, *(["--model-uri", str(model)] if model else [])], check=True)
    parts = output.glob("part-*.parquet")
    done = sorted((part.stat().st_mtime, pq.read_metadata(part).num_rows) for part in parts)
    return [(started, 0), *((time, size) for time, size in done if time > started)]


def build_rows(probabilities: NDArray[np.float32], **columns: Any) -> pa.Table:
    """What a side without our output contract writes: (N, 10) probabilities and what follows.

    Args:
        probabilities: Of N images.
        columns: More of them, which come first.
    """
    flat = pa.array(probabilities.reshape(-1))
    return pa.table(
        {
            **columns,
            "digit": probabilities.argmax(1).astype(np.int8),
            "confidence": probabilities.max(1),
            "probabilities": pa.FixedSizeListArray.from_arrays(flat, 10),
        }
    )


def timeline_of_rows(output: Path) -> Timeline:
    """Of a side that writes the `time` at which each row was predicted beside it."""
    times = pq.read_table(output, columns=["time"])["time"].to_numpy()
    seconds, counts = np.unique(times, return_counts=True)
    return list(zip(seconds.tolist(), counts.tolist(), strict=True))


def read_digits(output: Path, num_images: int) -> NDArray[np.int8]:
    """A side's digits in the order of the paths, one per image."""
    table = pq.read_table(output, columns=["path", "digit"]).sort_by("path")
    assert len(table) == num_images, f"{output.name} has {len(table)} rows"
    return table["digit"].to_numpy()


def count_other_digits(folder: Path, sides: Iterable[str], num_images: int) -> dict[str, int]:
    """Digits of each side that the first one read differently."""
    digits = {side: read_digits(folder / side, num_images) for side in sides}
    first = next(iter(digits.values()))
    return {side: int((other != first).sum()) for side, other in digits.items()}


def report(runs: Runs, comparisons: Iterable[tuple[str, str, str]] = (), **facts: Any) -> None:
    """Medians and ratios to the first side: a table for people, a line of JSON for programs.

    Args:
        runs: What each run of each side came to.
        comparisons: More ratios: (what, one side, another side).
        facts: What else belongs into the line of JSON.
    """
    medians = {
        side: {key: statistics.median(run[key] for run in results) for key in results[0]}
        for side, results in runs.items()
    }
    ours = next(iter(medians.values()))["images_per_s"]
    rates = {side: median["images_per_s"] for side, median in medians.items()}
    ratios = {side: ours / rate for side, rate in rates.items() if rate}
    print("| side | images/s, steady | this job is | first result after | whole command |")
    print("|---|---|---|---|---|")
    for side, median in medians.items():
        rate = f"{rates[side]:,.0f} | {ratios[side]:.2f}x" if rates[side] else "- | -"
        print(f"| `{side}` | {rate} | {median['first_s']:.1f} s | {median['wall_s']:.1f} s |")
    for what, one, other in comparisons:
        name = f"{what}, {one} / {other}"
        ratios[name] = medians[one][what] / medians[other][what]
        print(f"{name}: {ratios[name]:.2f}")
    rounds = len(next(iter(runs.values())))
    document = {"medians": medians, "ratios": ratios, "rounds": rounds, **facts}
    print(json.dumps({**document, **describe_machine()}))
