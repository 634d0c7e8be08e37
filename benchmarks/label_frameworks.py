r"""60,000 small PNG files in a folder -> Parquet: this job against Daft and Spark.

    python -m venv .venv-frameworks
    .venv-frameworks/bin/pip install daft pyspark 'pandas<3' numpy onnxruntime \
        opencv-python-headless
    .venv/bin/python benchmarks/label_frameworks.py --data-root data \
        --frameworks .venv-frameworks/bin/python

Neither is a dependency of this project, hence the environment of their own. Spark needs a Java 17
or newer (Debian's openjdk-17-jre-headless).

Sides, alternated, each in a fresh process, all with the same untrained MLP in ONNX Runtime by
`DigitClassifier`, one thread each:

    mnist-ocr  `mnist-ocr label`
    daft       its own download and image decode, a class UDF with a batch method
    spark      `binaryFile`, decoded by OpenCV and predicted in `mapInArrow`, local[number of cores]

A batch of Daft's and Spark's is done when it is predicted, one of ours when it is on disk. What a
rate is: sides.py. The last line of stdout is JSON.

Tried and not kept, since slower or not clearly faster: Daft with a process per predictor, as many
predictors as it likes, `into_batches`, 8 to 1,024 connections, batches of 1,024 and 2,048; Spark
with a pandas UDF of an iterator of series (a sixth more CPU time), with 1,024 and 2,048 rows a
batch, with 1,024 to 10,000 files a task.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from machine import read_versions
from numpy.typing import NDArray
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

BATCH_SIZE = 4096
"""Images per call of a UDF, at most."""

MAX_CONNECTIONS = 128
"""Of Daft's `download`; with its default of 32 a UDF's batches have 128 images, with this 512."""

OPEN_COST = 4096
"""Bytes that a file counts for Spark beside its content, so that each core has one task. By
default, with 4 MiB, a task has 32 files."""


def main() -> None:
    flags = {"frameworks": ("python", "interpreter that has daft and pyspark")}
    arguments = parse_arguments(__doc__, SIDES, **flags)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "scans", arguments.data_root, arguments.num_images)
        write_untrained_mlp(folder / "model")
        pythons = dict.fromkeys(("daft", "spark"), arguments.frameworks)
        runs = run_in_turn(SIDES, folder, arguments.rounds, pythons)
        other_digits = count_other_digits(folder, SIDES, arguments.num_images)
    report(
        runs,
        num_images=arguments.num_images,
        other_digits=other_digits,
        frameworks=read_versions(("daft", "pyspark", "pyarrow"), arguments.frameworks),
    )


def run_mnist_ocr(folder: Path) -> Timeline:
    return label(folder / "scans", folder / "mnist-ocr", folder / "model")


@cache
def load_classifier(model_uri: str) -> Any:
    from mnist_ocr import DigitClassifier

    cv2.setNumThreads(1)
    return DigitClassifier.load(model_uri, num_threads=1)


def predict(classifier: Any, images: NDArray[np.uint8]) -> pa.Table:
    """(N, 28, 28) images -> N rows of `digit`, `confidence`, `probabilities` and `time`."""
    predictions = classifier.predict(images)
    rows = build_rows(predictions.probabilities)
    return rows.append_column("time", pa.array(np.full(len(rows), time.time())))


def run_daft(folder: Path) -> Timeline:
    """Two threads share the process: its own steps and ONNX Runtime need no interpreter lock."""
    os.environ["DAFT_PROGRESS_BAR"] = "0"
    os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
    import daft
    from daft import DataType, col
    from daft.functions import decode_image, download

    columns = {
        "digit": DataType.int8(),
        "confidence": DataType.float32(),
        "probabilities": DataType.fixed_size_list(DataType.float32(), 10),
        "time": DataType.float64(),
    }

    @daft.cls(max_concurrency=os.cpu_count(), use_process=False)
    class Predictor:
        def __init__(self, model_uri: str) -> None:
            self.classifier = load_classifier(model_uri)

        @daft.method.batch(
            return_dtype=DataType.struct(columns), unnest=True, batch_size=BATCH_SIZE
        )
        def predict(self, images: daft.Series) -> pa.Array:
            pixels = images.to_arrow().storage.flatten().to_numpy()
            rows = predict(self.classifier, pixels.reshape(-1, 28, 28))
            return rows.to_struct_array().combine_chunks()

    content = download(col("path"), max_connections=MAX_CONNECTIONS)
    image = decode_image(content, mode="L").cast(DataType.image("L", 28, 28))
    (
        daft.from_glob_path(f"{folder}/scans/*.png")
        .select(col("path"), image.alias("image"))
        .select(col("path"), Predictor(str(folder / "model")).predict(col("image")))
        .write_parquet(str(folder / "daft"))
    )
    return timeline_of_rows(folder / "daft")


def run_spark(folder: Path) -> Timeline:
    """One task per core, Arrow batches in and out, one classifier per task."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    def label_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # here, since a worker imports this module anew
        from label_frameworks import load_classifier, predict

        classifier = load_classifier(f"{folder}/model")
        for batch in batches:
            files = (np.frombuffer(value.as_buffer(), np.uint8) for value in batch["content"])
            images = [cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) for file in files]
            rows = predict(classifier, np.stack(images)).add_column(0, "path", batch["path"])
            lists = rows["probabilities"].cast(pa.list_(pa.float32()))  # Spark knows no fixed size
            yield from rows.set_column(3, "probabilities", lists).combine_chunks().to_batches()

    session = (
        SparkSession.builder.master(f"local[{os.cpu_count()}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH_SIZE)
        .config("spark.sql.files.openCostInBytes", OPEN_COST)
        .getOrCreate()
    )
    (
        session.read.format("binaryFile")
        .option("pathGlobFilter", "*.png")
        .load(str(folder / "scans"))
        .select("path", "content")
        .mapInArrow(
            label_batches,
            "path string, digit byte, confidence float, probabilities array<float>, time double",
        )
        .write.parquet(str(folder / "spark"))
    )
    session.stop()
    return timeline_of_rows(folder / "spark")


SIDES: Sides = {"mnist-ocr": run_mnist_ocr, "daft": run_daft, "spark": run_spark}


if __name__ == "__main__":
    main()
