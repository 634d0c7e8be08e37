"""Training while workers, drivers and nodes are killed: it ends, and ends the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import start_command

NUM_EPOCHS = 8

TIMEOUT_S = 240
"""What takes longer hangs, on a busy machine, too."""


def start_training(model_uri: Path) -> Any:
    """The command, as a user types it, on the cluster of RAY_ADDRESS."""
    arguments = ["train", "--dataset", "digits", "--num-workers", "2"]
    arguments += ["--num-epochs", str(NUM_EPOCHS), "--model-uri", str(model_uri)]
    log_of(model_uri).unlink(missing_ok=True)
    return start_command(arguments, log_of(model_uri))


def log_of(model_uri: Path) -> Path:
    return model_uri.with_name(f"{model_uri.name}.log")


def finish(process: Any, model_uri: Path, exit_code: int = 0) -> str:
    """What it said on the way."""
    process.join(TIMEOUT_S)
    said = log_of(model_uri).read_text()
    if process.is_alive():
        process.kill()
    assert process.exitcode == exit_code, said
    return said


def read_epochs(model_uri: Path) -> list[dict[str, float]]:
    path = model_uri / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def find_workers() -> list[psutil.Process]:
    """The processes of Ray Train's workers of this session's Ray, which has a home of its own."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if re.match(r"ray::RayTrainWorker", " ".join(process.info["cmdline"] or ()))
        and (process.info["environ"] or {}).get("HOME") == os.environ["HOME"]
    ]


@pytest.fixture(scope="module")
def uninterrupted(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run that nothing happens to."""
    model_uri = tmp_path_factory.mktemp("models") / "whole"
    finish(start_training(model_uri), model_uri)
    return (model_uri / "model.safetensors").read_bytes()


def check(model_uri: Path, uninterrupted: bytes) -> None:
    assert (model_uri / "model.safetensors").read_bytes() == uninterrupted
    assert [epoch["epoch"] for epoch in read_epochs(model_uri)] == list(range(1, NUM_EPOCHS + 1))
    assert not (model_uri / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_rank_changes_nothing(rank: int, uninterrupted: bytes, tmp_path: Path) -> None:
    """SIGKILL of a worker in the middle of an epoch: the run ends with the same bits."""
    process = start_training(tmp_path)
    wait_for(lambda: len(read_epochs(tmp_path)) >= 2)
    time.sleep(0.3)  # into the epoch
    workers = sorted(find_workers(), key=lambda worker: worker.create_time())
    assert len(workers) == 2
    workers[rank].send_signal(signal.SIGKILL)
    assert re.search(r"continuing after epoch [2-7]\n", finish(process, tmp_path))
    check(tmp_path, uninterrupted)


def test_killed_driver_changes_nothing(uninterrupted: bytes, tmp_path: Path) -> None:
    """SIGKILL of the command, then the same command: it goes on, and ends with the same bits."""
    process = start_training(tmp_path)
    wait_for(lambda: len(read_epochs(tmp_path)) >= 2)
    time.sleep(0.3)
    process.kill()
    process.join()
    wait_for(lambda: not find_workers())
    assert re.search(r"continuing after epoch [2-7]\n", finish(start_training(tmp_path), tmp_path))
    check(tmp_path, uninterrupted)


def test_damaged_checkpoint_costs_time_only(uninterrupted: bytes, tmp_path: Path) -> None:
    """A truncated one is passed over, and the driver says so."""
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    errors = finish(start_training(tmp_path), tmp_path)
    assert re.search(r"starting anew: .*checkpoint.safetensors is damaged", errors)
    check(tmp_path, uninterrupted)


def test_error_of_one_worker_ends_the_run_at_once(ray_session: str, tmp_path: Path) -> None:
    """What worker 0 cannot read or write is the command's error; nobody waits for it for ever."""
    (tmp_path / "checkpoint.safetensors").mkdir()
    process = start_training(tmp_path)
    errors = finish(process, tmp_path, exit_code=1)
    assert "checkpoint.safetensors is no regular file" in errors
    assert "Traceback" not in errors


def test_interrupted_command_says_that_it_can_go_on(ray_session: str, tmp_path: Path) -> None:
    """Ctrl-C: one sentence, the code that a shell expects, and a checkpoint."""
    process = start_training(tmp_path)
    wait_for(lambda: len(read_epochs(tmp_path)) >= 1)
    os.kill(process.pid, signal.SIGINT)
    errors = finish(process, tmp_path, exit_code=130)
    assert errors.splitlines()[-1] == "error: Interrupted. The same command goes on where it was."
    assert (tmp_path / "checkpoint.safetensors").exists()


ELASTIC = """
import subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from mnist_ocr.training import trainer
from mnist_ocr.training.config import RecipeOverrides, TrainConfig
from mnist_ocr.training.metrics import parse_history

metrics, drain, num_epochs = Path(sys.argv[1], "metrics.jsonl"), sys.argv[2], int(sys.argv[3])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
cluster.add_node(num_cpus=1)
second = cluster.add_node(num_cpus=1)
ray.init(cluster.address, log_to_driver=False)
trainer.RESIZE_INTERVAL_S = 2.0
config = TrainConfig(
    dataset="digits",
    num_workers="1:2",
    model_uri=sys.argv[1],
    override=RecipeOverrides(num_epochs=num_epochs, learning_rate=1e-3),
)
with ThreadPoolExecutor() as pool:  # a Cluster wants the main thread
    training = pool.submit(trainer.train, config)

    def wait_for_workers(count):
        while not training.done():
            if metrics.exists():
                history = parse_history(metrics.read_text())
                if history and history[-1].num_workers == count:
                    return
            time.sleep(0.05)

    wait_for_workers(2)
    cluster.remove_node(second, allow_graceful=False)
    wait_for_workers(1)
    third = cluster.add_node(num_cpus=1)
    wait_for_workers(2)
    command = [drain, "drain-node", "--address", cluster.address, "--node-id", third.node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", "5"], check=True)
    print(training.result().test_accuracy)
ray.shutdown()
cluster.shutdown()  # or other commands would look for it
"""


def test_elastic_run_survives_the_loss_the_growth_and_the_draining_of_nodes(
    tmp_path: Path,
) -> None:
    """Workers 2, 1, 2, 1: every epoch happens once, and the model is as good as ever."""
    num_epochs = 45
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    ray = str(Path(sys.executable).with_name("ray"))
    done = subprocess.run(
        [sys.executable, "-c", ELASTIC, str(tmp_path), ray, str(num_epochs)],
        env=environment,
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    epochs = read_epochs(tmp_path)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, num_epochs + 1))
    sizes = [epoch["num_workers"] for epoch in epochs]
    changes = [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before]
    assert changes == [2, 1, 2, 1]
    assert float(done.stdout.splitlines()[-1]) >= 0.98
