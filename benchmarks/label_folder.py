"""60,000 small PNG files in a folder -> Parquet: this job against what one would write instead.

    .venv/bin/python benchmarks/label_folder.py --data-root data

Sides, alternated, each in a fresh process, all with the same MLP (784-128-10):

    mnist-ocr    `mnist-ocr label`
    read_images  Ray Data's `read_images -> map_batches -> write_parquet`, one actor per core
    dataloader   a torch DataLoader with two workers as most are written: Pillow, `to_tensor`
    dataloader2  the fastest one we can write: OpenCV, uint8 batches stacked by NumPy
    bare         no framework and no check: one process per core reads, decodes, predicts, writes

A result of `read_images` is there when it is predicted, one of the others when it is on disk. What
a rate is: sides.py. The last line of stdout is JSON.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from bare import BareWork, list_paths, read_pngs, run_on_all_cores
from sides import (
    Sides,
    Timeline,
    build_rows,
    count_other_digits,
    label,
    parse_arguments,
    report,
    run_in_turn,
    timeline_of_rows,
    write_images,
    write_untrained_mlp,
)


def main() -> None:
    arguments = parse_arguments(__doc__, SIDES)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "scans", arguments.data_root, arguments.num_images)
        write_untrained_mlp(folder / "model")
        runs = run_in_turn(SIDES, folder, arguments.rounds)
        other_digits = count_other_digits(folder, SIDES, arguments.num_images)
    report(runs, num_images=arguments.num_images, other_digits=other_digits)


def run_mnist_ocr(folder: Path) -> Timeline:
    return label(folder / "scans", folder / "mnist-ocr", folder / "model")


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
    return timeline_of_rows(output)


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


def run_bare(folder: Path) -> Timeline:
    work = BareWork(read_pngs, folder / "bare", folder / "model/model.onnx")
    return run_on_all_cores(work, list_paths(folder))


def stack(images: list[np.ndarray]) -> Any:
    import torch

    return torch.from_numpy(np.stack(images))


def run_dataloader(folder: Path) -> Timeline:
    """The usual script; `to_tensor` scales to 0-1, the model here takes bytes."""
    from torch.utils.data import DataLoader

    paths = list_paths(folder)
    loader = DataLoader(PillowDataset(paths), batch_size=256, num_workers=2)
    batches = ((batch[:, 0] * 255).round().byte() for batch in loader)
    return predict_and_write(folder, "dataloader", paths, batches)


def run_fast_dataloader(folder: Path) -> Timeline:
    """The same without Pillow, floats and torch's collating."""
    from torch.utils.data import DataLoader

    cv2.setNumThreads(1)
    paths = list_paths(folder)
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
        logits = torch.from_numpy(runtime.run(batch.numpy()))
        probabilities = torch.softmax(logits, 1).numpy()
        table = build_rows(probabilities, path=paths[at : at + len(batch)])
        writer = writer or pq.ParquetWriter(folder / side / "labels.parquet", table.schema)
        writer.write_table(table)
        timeline.append((time.time(), len(batch)))
        at += len(batch)
    assert writer is not None
    writer.close()
    return timeline


SIDES: Sides = {
    "mnist-ocr": run_mnist_ocr,
    "read_images": run_read_images,
    "dataloader": run_dataloader,
    "dataloader2": run_fast_dataloader,
    "bare": run_bare,
}


if __name__ == "__main__":
    main()
