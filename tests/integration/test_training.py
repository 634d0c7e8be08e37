import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import ray

from mnist_ocr import DigitClassifier
from mnist_ocr.errors import UsageError
from mnist_ocr.training.config import DatasetConfig, EvaluateConfig, RecipeOverrides, TrainConfig
from mnist_ocr.training.datasets import load_dataset, load_digit_pages
from mnist_ocr.training.evaluation import evaluate
from mnist_ocr.training.metrics import METRICS, parse_history
from mnist_ocr.training.progress import follow_progress
from mnist_ocr.training.recipes import RECIPES
from mnist_ocr.training.resources import plan_resources
from mnist_ocr.training.tracking import EVENTS, RunTracker
from mnist_ocr.training.trainer import train
from mnist_ocr.training.worker import TrainResult

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def trained(
    ray_session: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, TrainConfig]:
    """The CNN, trained for three epochs on the embedded digits by two workers."""
    model_uri = tmp_path_factory.mktemp("models") / "digits-cnn"
    config = TrainConfig(
        dataset="digits",
        recipe="cnn",
        model_uri=str(model_uri),
        num_workers=2,
        override=RecipeOverrides(num_epochs=3),
    )
    return train(config), config


def test_trained_model_reads_digits(trained: tuple[TrainResult, TrainConfig]) -> None:
    """Three epochs suffice for 97% of the test images, and evaluation on CPU finds the same."""
    result, _ = trained
    assert result.test_accuracy >= 0.97
    evaluation = evaluate(EvaluateConfig(model_uri=result.model_uri, dataset="digits"))
    assert evaluation.accuracy == result.test_accuracy
    assert np.array(evaluation.confusion).sum() == evaluation.num_images == 797


def test_training_leaves_the_model_and_what_was_measured(
    trained: tuple[TrainResult, TrainConfig],
) -> None:
    """No checkpoint remains; `metrics.jsonl` and TensorBoard's events hold every epoch."""
    folder = Path(trained[0].model_uri)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    files = {name for name in files if not name.startswith("evaluation/")}
    assert files == {"model.json", "model.onnx", "model.safetensors", METRICS, EVENTS}
    assert list(folder.parent.iterdir()) == [folder]
    history = parse_history((folder / METRICS).read_text())
    assert [(metrics.epoch, metrics.num_workers) for metrics in history] == [(1, 2), (2, 2), (3, 2)]


def test_model_records_how_it_was_made(trained: tuple[TrainResult, TrainConfig]) -> None:
    """`model.json` holds the config, the recipe, the data's sha256 and the figures reported."""
    result, config = trained
    model = json.loads(Path(result.model_uri, "model.json").read_text())
    assert model["training"]["num_workers"] == config.num_workers
    assert model["training"]["recipe"]["name"] == "cnn"
    assert model["training"]["recipe"]["num_epochs"] == 3
    assert model["data"] == load_dataset(DatasetConfig(dataset="digits")).describe()
    assert model["metrics"]["test_accuracy"] == result.test_accuracy
    assert model["calibration"]["temperature"] > 0
    risks = [threshold["max_risk"] for threshold in model["calibration"]["thresholds"]]
    assert min(risks, default=None) == result.min_risk
    json.dumps(asdict(result))


def test_saved_model_is_the_averaged_network(trained: tuple[TrainResult, TrainConfig]) -> None:
    """Confidences come from the calibration fitted on validation, and sum to 1 over the digits."""
    images = load_dataset(DatasetConfig(dataset="digits")).test.images[:20]
    predictions = DigitClassifier.load(trained[0].model_uri).predict(images)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-5)


@ray.remote(num_cpus=1)
def share_batches(rank: int, num_workers: int, rendezvous: str) -> tuple[list[float], np.ndarray]:
    """Train the CNN as one of several workers; return its losses, and its gradients in float64."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from mnist_ocr.digits.networks import build_network
    from mnist_ocr.training.loop import build_loop

    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_workers
    )
    dataset = load_dataset(DatasetConfig(dataset="digits"))
    torch.manual_seed(0)
    network = DistributedDataParallel(build_network("cnn").double())
    inputs = torch.randn(8, 1, 28, 28, dtype=torch.float64)
    labels = torch.arange(8)
    # Uneven shares, as the last batch of an epoch may give: 3 and 5.
    own = slice(rank * 3, 3 if (rank, num_workers) == (0, 2) else 8)
    loss = torch.nn.functional.cross_entropy(network(inputs[own]), labels[own], reduction="sum")
    (loss * num_workers / 8).backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters()]).numpy()
    loop = build_loop(
        # A low rate, since Adam blows rounding errors of tiny gradients up to whole steps.
        replace(RECIPES["cnn"], num_epochs=2, min_steps_per_epoch=1, learning_rate=1e-4),
        dataset,
        seed=0,
        device=torch.device("cpu"),
    )
    metrics = list(loop.run())
    dist.destroy_process_group()
    return [m.train_loss for m in metrics] + [m.validation_loss for m in metrics], gradients


def test_number_of_workers_does_not_change_the_result(tmp_path: Path) -> None:
    """Two workers with half of each batch follow one worker's losses within float noise."""
    (alone,), (first, second) = (
        ray.get([share_batches.remote(rank, n, str(tmp_path / f"{n}")) for rank in range(n)])
        for n in (1, 2)
    )
    assert first[0] == second[0]
    assert first[0] == pytest.approx(alone[0], rel=1e-4)
    np.testing.assert_allclose(first[1], alone[1], rtol=0, atol=1e-12 * np.abs(alone[1]).max())


def test_model_is_written_to_a_bucket(rclone_server: Any) -> None:
    """With an S3 model_uri the worker writes there, and evaluation reads from there."""
    rclone_server.client().create_bucket(Bucket="trained")
    config = TrainConfig(
        dataset="digits",
        recipe="mlp-128",
        model_uri="s3://trained/mlp",
        override=RecipeOverrides(num_epochs=2),
    )
    result = train(config)
    assert result.model_uri == "s3://trained/mlp"
    assert (
        evaluate(EvaluateConfig(model_uri="s3://trained/mlp", dataset="digits")).accuracy
        == result.test_accuracy
    )


def test_divergence_on_a_worker_is_the_drivers_clear_error(tmp_path: Path) -> None:
    """A run that diverges says so in its own words, without Ray's, and writes no model."""
    config = TrainConfig(
        dataset="digits",
        recipe="mlp-128",
        model_uri=str(tmp_path / "model"),
        override=RecipeOverrides(learning_rate=1e30),
    )
    with pytest.raises(UsageError, match="Training diverged"):
        train(config)
    assert list(tmp_path.iterdir()) == []


def test_silence_of_the_workers_is_told_and_passes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that has heard of no epoch for long says so, and hears of the next."""
    caplog.set_level("INFO", "mnist_ocr")
    monkeypatch.setattr("mnist_ocr.training.progress.SILENCE_S", 0.2)
    with follow_progress(cast(RunTracker, None), num_epochs=3) as queue:
        deadline = time.monotonic() + 60
        while "no epoch ended in the last 0 s" not in caplog.text:
            assert time.monotonic() < deadline, "it does not say so"
            time.sleep(0.01)
        queue.put("continuing after epoch 1")
    assert caplog.messages[-1] == "continuing after epoch 1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"use_gpu": True, "num_workers": 2},
            r"2 worker\(s\) need a GPU each, and the Ray cluster has 1",
        ),
        ({"num_workers": 64}, r"64 worker\(s\) need a CPU each, and the Ray cluster has 2"),
        ({"override": RecipeOverrides(batch_size=1024)}, "1024 images exceeds the 800"),
    ],
)
def test_impossible_run_is_refused_at_once(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """What the cluster or dataset cannot give is named before any worker starts."""
    start = time.monotonic()
    with pytest.raises(UsageError, match=message):
        train(TrainConfig(dataset="digits", model_uri=str(tmp_path / "model"), **fields))
    assert time.monotonic() - start < 5
    assert list(tmp_path.iterdir()) == []


def test_destination_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    """A model_uri inside a file is refused before any time is spent."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a folder that can be written to"):
        train(TrainConfig(dataset="digits", model_uri=str(tmp_path / "file" / "model")))


@pytest.mark.parametrize(
    ("num_workers", "use_gpu", "nodes", "resources"),
    [
        (1, False, [{"CPU": 2}], {"CPU": 2}),
        (2, False, [{"CPU": 2}], {"CPU": 1}),
        (3, False, [{"CPU": 4}, {"CPU": 2}], {"CPU": 2}),
        (1, False, [{"CPU": 0}, {"CPU": 64}], {"CPU": 8}),
        (2, True, [{"CPU": 8}, {"CPU": 8, "GPU": 2}], {"CPU": 1, "GPU": 1}),
    ],
)
def test_workers_share_the_cores_of_the_cluster(
    num_workers: int, use_gpu: bool, nodes: list[dict[str, float]], resources: dict[str, float]
) -> None:
    """Each worker reserves as many cores as leaves room for all of them; on GPUs one each."""
    assert plan_resources(num_workers, num_workers, use_gpu, nodes) == resources


def test_elastic_run_takes_what_fits() -> None:
    """As many workers as there may be, else fewer; their share of the cores goes by that."""
    assert plan_resources(1, 4, False, [{"CPU": 8}]) == {"CPU": 2}
    assert plan_resources(1, 4, False, [{"CPU": 2}]) == {"CPU": 1}


def test_labelled_scans_in_a_bucket_refine_a_model(
    rclone_server: Any, trained: tuple[TrainResult, TrainConfig], tmp_path: Path
) -> None:
    """A folder of digits on S3 trains, from another model's weights; what is no scan is counted."""
    client = rclone_server.client()
    client.create_bucket(Bucket="labelled")
    pages, labels = load_digit_pages()["test"]
    for i, (page, label) in enumerate(zip(pages[:150], labels[:150].tolist(), strict=True)):
        body = cv2.imencode(".png", 255 - page)[1].tobytes()
        client.put_object(Bucket="labelled", Key=f"scans/{label}/{i}.png", Body=body)
    broken = b"\x89PNG\r\n\x1a\nbroken"
    client.put_object(Bucket="labelled", Key="scans/0/broken.png", Body=broken)
    client.put_object(Bucket="labelled", Key="scans/README.txt", Body=b"scanned in 2026")
    config = TrainConfig(
        dataset="s3://labelled/scans",
        model_uri=str(tmp_path),
        init_from=trained[0].model_uri,
        override=RecipeOverrides(num_epochs=1, learning_rate=1e-4, batch_size=32),
    )
    result = train(config)
    assert result.dataset == "scans"
    assert result.validation_accuracy >= 0.9  # one epoch at this rate would not read from scratch
    model = json.loads((tmp_path / "model.json").read_text())
    assert sum(model["data"]["skipped"].values()) == 2
    assert model["mean"] == json.loads(Path(trained[0].model_uri, "model.json").read_text())["mean"]


def test_architecture_of_another_model_cannot_be_changed(
    trained: tuple[TrainResult, TrainConfig], tmp_path: Path
) -> None:
    """Weights fit one network; the error names both."""
    config = TrainConfig(
        dataset="digits",
        model_uri=str(tmp_path),
        init_from=trained[0].model_uri,
        override=RecipeOverrides(architecture="lenet"),
    )
    with pytest.raises(UsageError, match=r"architecture is lenet, but .* is a cnn"):
        train(config)
