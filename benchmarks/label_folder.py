"""60,000 small PNG files in a folder -> Parquet: this job against what one would write instead.

    .venv/bin/python benchmarks/label_folder.py --data-root data

Sides, alternated, each in a fresh process, all with the same MLP (784-128-10):

    mnist-ocr    `mnist-ocr label`
    read_images  Ray Data's `read_images -> map_batches -> write_parquet`, one actor per core
    dataloader   a torch DataLoader with two workers as most are written: Pillow, `to_tensor`
    dataloader2  the fastest one we can write: OpenCV, uint8 batches stacked by NumPy

A side's rate is the slope of a line through (time, images done so far): start-up is not in it, and
stands beside it as the seconds from the start of the process to the first result on disk (for the
DataLoader, predicted). The last line of stdout is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe_machine

Timeline = list[tuple[float, int]]
"""(seconds since the epoch, images done since the last entry), in order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--side", choices=SIDES, help="run one side only, in this process")
    parser.add_argument("folder", nargs="?", help="of images, model and output (with --side)")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](Path(arguments.folder))))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, arguments.data_root)
        runs = {side: [] for side in SIDES}
        for round_number in range(arguments.rounds):
            for side, results in runs.items():
                results.append(run_side(side, folder))
                print(f"round {round_number + 1}, {side}: {results[-1]}", file=sys.stderr)
        digits = [read_digits(folder / side) for side in SIDES]
    report(runs, all((digits[0] == other).all() for other in digits[1:]))


def write_inputs(folder: Path, data_root: str) -> None:
    """MNIST's 60,000 training images as PNG files, and an untrained MLP: speed is measured."""
    import torch

    from mnist_ocr.digits.calibration import Calibration
    from mnist_ocr.digits.model import save_model
    from mnist_ocr.digits.networks import build_network
    from mnist_ocr.training.config import DatasetConfig
    from mnist_ocr.training.datasets import load_dataset

    dataset = load_dataset(DatasetConfig(data_root=data_root))
    (folder / "scans").mkdir()
    images = np.concatenate([dataset.train.images, dataset.validation.images])
    for i, image in enumerate(images):
        (folder / f"scans/{i:05d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    torch.manual_seed(0)
    save_model(
        str(folder / "model"),
        build_network("mlp-128"),
        architecture="mlp-128",
        mean=0.1307,
        std=0.3081,
        calibration=Calibration(),
        metrics={},
        training={},
        data={},
    )


def run_side(side: str, folder: Path) -> dict[str, float]:
    """One side in a fresh process: images/s and seconds to its first result."""
    subprocess.run(["rm", "-rf", str(folder / side)], check=True)
    command = [sys.executable, __file__, "--side", side, str(folder)]
    started = time.time()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=600
    )
    wall_s = time.time() - started
    timeline = np.array(json.loads(done.stdout.splitlines()[-1]))
    seconds, images = timeline[:, 0] - started, timeline[:, 1].cumsum()
    return {
        "images_per_s": float(np.polyfit(seconds, images, 1)[0]),
        "first_s": float(seconds[0]),
        "wall_s": wall_s,
    }


def run_mnist_ocr(folder: Path) -> Timeline:
    """The command, as a user types it; a shard is done when its file is there."""
    output = folder / "mnist-ocr"
    command = [sys.executable, "-m", "mnist_ocr", "label", str(folder / "scans"), str(output)]
    subprocess.run([*command, "--model-uri", str(folder / "model")], check=True)
    parts = output.glob("part-*.parquet")
    return sorted((part.stat().st_mtime, pq.read_metadata(part).num_rows) for part in parts)


class ReadImagesPredictor:
    """What a reader of Ray Data's documentation would write, with our ONNX model."""

    def __init__(self, model_uri: str) -> None:
        from mnist_ocr import DigitClassifier

        self._classifier = DigitClassifier.load(model_uri, num_threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        predictions = self._classifier.predict(batch["image"])
        return {
            "path": batch["path"],
            "digit": predictions.digit,
            "confidence": predictions.confidence,
            "probabilities": predictions.probabilities,
            "time": np.full(len(predictions.digit), time.time()),
        }


def run_read_images(folder: Path) -> Timeline:
    """Ray Data's own reader and writer; a batch is done when it is predicted."""
    import ray

    ray.init(include_dashboard=False)
    cores = int(ray.cluster_resources()["CPU"])
    output = folder / "read_images"
    (
        ray.data.read_images(str(folder / "scans"), mode="L", include_paths=True)
        .map_batches(
            ReadImagesPredictor,
            fn_constructor_args=(str(folder / "model"),),
            batch_size=1024,
            compute=ray.data.ActorPoolStrategy(size=cores),
            num_cpus=0.1,  # with a whole core each they would leave none to read with, for ever
        )
        .write_parquet(str(output))
    )
    times = pq.read_table(output, columns=["time"])["time"].to_numpy()
    return list(
        zip(*(values.tolist() for values in np.unique(times, return_counts=True)), strict=True)
    )


class FileDataset:
    """What a DataLoader needs of a list of files."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)


class PillowDataset(FileDataset):
    """An item is a float tensor (1, 28, 28)."""

    def __getitem__(self, i: int) -> Any:
        from PIL import Image
        from torchvision.transforms.functional import to_tensor

        return to_tensor(Image.open(self.paths[i]).convert("L"))


class OpenCvDataset(FileDataset):
    """An item is a uint8 array (28, 28)."""

    def __getitem__(self, i: int) -> np.ndarray:
        data = np.frombuffer(Path(self.paths[i]).read_bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def stack(images: list[np.ndarray]) -> Any:
    import torch

    return torch.from_numpy(np.stack(images))


def run_dataloader(folder: Path) -> Timeline:
    """The usual script; `to_tensor` scales to 0-1, the model here takes bytes."""
    from torch.utils.data import DataLoader

    paths = sorted(entry.path for entry in os.scandir(folder / "scans"))
    loader = DataLoader(PillowDataset(paths), batch_size=256, num_workers=2)
    batches = ((batch[:, 0] * 255).round().byte() for batch in loader)
    return predict_and_write(folder, "dataloader", paths, batches)


def run_fast_dataloader(folder: Path) -> Timeline:
    """The same without Pillow, floats and torch's collating."""
    from torch.utils.data import DataLoader

    cv2.setNumThreads(1)
    paths = sorted(entry.path for entry in os.scandir(folder / "scans"))
    loader = DataLoader(OpenCvDataset(paths), batch_size=1024, num_workers=2, collate_fn=stack)
    return predict_and_write(folder, "dataloader2", paths, loader)


def predict_and_write(
    folder: Path, side: str, paths: list[str], batches: Iterable[Any]
) -> Timeline:
    """Predict by torch, write one Parquet file; a batch is done when its rows are written."""
    import torch

    from mnist_ocr.digits.inference import TorchRuntime
    from mnist_ocr.digits.model import load_model

    torch.set_num_threads(1)
    runtime = TorchRuntime(load_model(str(folder / "model")))
    (folder / side).mkdir()
    timeline: Timeline = []
    writer, at = None, 0
    for batch in batches:
        probabilities = runtime.run(batch.numpy(), "probabilities")
        flat = pa.array(probabilities.reshape(-1))
        table = pa.table(
            {
                "path": paths[at : at + len(batch)],
                "digit": probabilities.argmax(1).astype(np.int8),
                "confidence": probabilities.max(1),
                "probabilities": pa.FixedSizeListArray.from_arrays(flat, 10),
            }
        )
        writer = writer or pq.ParquetWriter(folder / side / "labels.parquet", table.schema)
        writer.write_table(table)
        timeline.append((time.time(), len(batch)))
        at += len(batch)
    assert writer is not None
    writer.close()
    return timeline


SIDES: dict[str, Callable[[Path], Timeline]] = {
    "mnist-ocr": run_mnist_ocr,
    "read_images": run_read_images,
    "dataloader": run_dataloader,
    "dataloader2": run_fast_dataloader,
}


def read_digits(output: Path) -> np.ndarray:
    """A side's digits, in the order of the paths."""
    table = pq.read_table(output, columns=["path", "digit"]).sort_by("path")
    assert len(table) == 60_000, f"{output.name} has {len(table)} rows"
    return table["digit"].to_numpy()


def report(runs: dict[str, list[dict[str, float]]], same_digits: bool) -> None:
    """Medians and ratios: a table for people, a line of JSON for programs."""
    medians = {
        side: {key: statistics.median(run[key] for run in results) for key in results[0]}
        for side, results in runs.items()
    }
    ours = medians["mnist-ocr"]["images_per_s"]
    print("| side | images/s, steady | this job is | first result after | whole command |")
    print("|---|---|---|---|---|")
    for side, median in medians.items():
        print(
            f"| `{side}` | {median['images_per_s']:,.0f} | {ours / median['images_per_s']:.1f}x |"
            f" {median['first_s']:.1f} s | {median['wall_s']:.1f} s |"
        )
    document = {
        "medians": medians,
        "rounds": len(runs["mnist-ocr"]),
        "same_digits": bool(same_digits),
        **describe_machine(),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
