"""The whole job on MNIST and on corpora of difficult files, where the test data are at hand."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from services import S3Server

from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.manifest import list_finished_shards, part_name
from mnist_ocr.labelling.predictions import decode_table
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import open_store
from mnist_ocr.training.config import DatasetConfig, EvaluateConfig, RecipeOverrides, TrainConfig
from mnist_ocr.training.datasets import load_dataset
from mnist_ocr.training.evaluation import evaluate
from mnist_ocr.training.trainer import train

pytestmark = [pytest.mark.test_data, pytest.mark.usefixtures("ray_session")]


def test_folder_bucket_and_evaluation_agree_to_the_last_image(
    test_data: Path, rclone_server: S3Server, tmp_path: Path
) -> None:
    """10,000 PNG files: the same digits from a folder and a bucket, the accuracy of `evaluate`."""
    data_root, model_uri = str(test_data / "mnist"), str(tmp_path / "model")
    override = RecipeOverrides(num_epochs=2)
    config = TrainConfig(
        recipe="mlp-128", override=override, data_root=data_root, model_uri=model_uri
    )
    trained = train(config)
    assert trained.test_accuracy > 0.94

    scans = rclone_server.make_bucket("mnist") / "scans"
    scans.mkdir()
    images, labels = load_dataset(DatasetConfig(data_root=data_root)).test
    for i, image in enumerate(images):
        (scans / f"{i:05d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())

    digits = []
    for source, output in [
        (str(scans), str(tmp_path / "out")),
        ("s3://mnist/scans", "s3://mnist/out"),
    ]:
        summary = label(LabelConfig(source, output, model_uri, num_gpus_per_actor=0))
        assert summary.statuses == {"ok": 10_000}
        assert verify(VerifyConfig(output)).problems == []
        store = open_store(output)
        parts = [
            decode_table(store.read(part_name(shard)))[0] for shard in list_finished_shards(store)
        ]
        digits.append(pa.concat_tables(parts)["digit"].to_numpy())
    assert (digits[0] == digits[1]).all()
    evaluation = evaluate(EvaluateConfig(model_uri=model_uri, data_root=data_root))
    assert (digits[0] == labels).sum() == round(evaluation.accuracy * 10_000)
    assert np.trace(evaluation.confusion) == (digits[0] == labels).sum()
    assert evaluation.accuracy == trained.test_accuracy


@pytest.mark.parametrize(("corpus", "count"), [("pngsuite", 175), ("pillow", 640)])
def test_corpus_of_difficult_files_has_one_row_per_file(
    corpus: str, count: int, test_data: Path, tmp_path: Path, model_uri: str
) -> None:
    """Crash, memory and time-out reproducers: a status each, and no worker dies."""
    folder, output = test_data / "corpora" / corpus, tmp_path / "out"
    summary = label(
        LabelConfig(str(folder), str(output), model_uri, num_gpus_per_actor=0, shard_size=100)
    )
    rows = pd.read_parquet(output)
    assert len(rows) == summary.num_images == count
    assert sorted(rows["path"]) == sorted(os.path.abspath(path) for path in folder.iterdir())  # noqa: PTH100
    assert verify(VerifyConfig(str(output))).problems == []
    if corpus == "pngsuite":
        is_corrupt = rows["path"].str.contains("/x[^/]*$")
        assert not rows[is_corrupt]["status"].isin(["ok", "blank"]).any()
        assert rows[~is_corrupt]["status"].isin(["ok", "blank"]).all()
