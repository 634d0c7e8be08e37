"""Ray Tune on the shared Ray: whole searches, cut off and continued ones."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mnist_ocr.errors import UsageError
from mnist_ocr.storage import open_store
from mnist_ocr.training.config import TuneConfig
from mnist_ocr.training.tuning import Tuning, tune

pytestmark = pytest.mark.usefixtures("ray_session")

CONFIG = TuneConfig(dataset="digits", recipe="mlp-128", num_trials=4, num_epochs=3)


def wait_for(condition: Callable[[], Any], timeout_s: float = 240) -> Any:
    """Poll until there is something."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def searched(
    ray_session: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tuning, TuneConfig]:
    """A search of four trials."""
    config = replace(CONFIG, output_uri=str(tmp_path_factory.mktemp("tune") / "search"))
    return tune(config), config


def test_best_trial_is_chosen_on_validation(searched: tuple[Tuning, TuneConfig]) -> None:
    """It is at least as good as the recipe, which ran to its end, and the table tells all."""
    result, _ = searched
    finished = [trial for trial in result.trials if trial.status == "finished"]
    assert result.validation_loss == min(trial.validation_loss or 0 for trial in finished)
    assert result.validation_loss <= (result.recipe_validation_loss or 0)
    assert sorted(trial.trial for trial in result.trials) == [0, 1, 2, 3]
    assert {trial.status for trial in result.trials} <= {"finished", "stopped"}
    assert next(trial for trial in result.trials if trial.trial == 0).num_epochs == 3
    json.dumps(asdict(result))
    files = {path.name for path in Path(result.output_uri).iterdir()}
    assert files == {"search.json", "trials", "trials.csv", "best.json"}


def test_finished_search_is_not_run_again(
    searched: tuple[Tuning, TuneConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command shows the same table; another configuration is refused."""
    result, config = searched
    monkeypatch.setattr("mnist_ocr.training.trials.run_trials", None)
    assert tune(config) == result
    with pytest.raises(UsageError, match=r"num_epochs differs \(3, now 5\)"):
        tune(replace(config, num_epochs=5))


def test_search_is_kept_in_a_bucket(rclone_server: Any) -> None:
    """With an S3 output_uri trials and driver write there."""
    rclone_server.client().create_bucket(Bucket="tuned")
    result = tune(replace(CONFIG, num_trials=2, num_epochs=1, output_uri="s3://tuned/search"))
    assert result.output_uri == "s3://tuned/search"
    names = {info.name for page in open_store("s3://tuned/search").list() for info in page}
    assert names >= {"search.json", "trials/000.json", "trials/001.json", "best.json"}


def test_killed_driver_loses_no_finished_trial(tmp_path: Path) -> None:
    """The same command goes on: what has ended is not run again, the rest is continued."""
    config = replace(CONFIG, num_epochs=60, output_uri=str(tmp_path / "search"))
    folder = tmp_path / "search" / "trials"
    code = (
        "from mnist_ocr.training.config import TuneConfig\n"
        "from mnist_ocr.training.tuning import tune\n"
        f"tune({config!r})"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        wait_for(lambda: list(folder.glob("*.json")) and list(folder.glob("*/checkpoint*")))
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert 1 <= len(before) < 4
    result = tune(config)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {trial.status for trial in result.trials} <= {"finished", "stopped"}
    assert not list(folder.glob("*/checkpoint*"))


def find_trial_workers() -> list[int]:
    """Processes of this Ray that run trials, by the folder that Ray keeps its token in."""
    home = f"HOME={os.environ['HOME']}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_trial = b"ImplicitFunc.train" in (process / "cmdline").read_bytes()
            if is_trial and home in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:  # gone meanwhile
            continue
    return found


def test_trial_whose_worker_dies_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A killed worker costs its trial an epoch at most."""
    config = replace(CONFIG, num_trials=1, num_epochs=60, output_uri=str(tmp_path / "search"))
    checkpoint = tmp_path / "search" / "trials" / "000" / "checkpoint.safetensors"

    def kill() -> None:
        wait_for(checkpoint.exists)
        for process in wait_for(find_trial_workers):
            os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = tune(config)
    killer.join()
    assert "trial 0 broke off and is tried again" in caplog.text
    assert [(trial.status, trial.num_epochs) for trial in result.trials] == [("finished", 60)]


@pytest.mark.parametrize(
    ("num_gpus", "message"),
    [(2.0, "A trial needs 1 CPU and 2 GPUs of one machine"), (1.5, "Pass a share up to 1")],
)
def test_gpus_that_the_cluster_lacks_are_refused(
    num_gpus: float, message: str, tmp_path: Path
) -> None:
    """Ray would wait for them for ever."""
    config = replace(CONFIG, output_uri=str(tmp_path / "out"), num_gpus_per_trial=num_gpus)
    with pytest.raises(UsageError, match=message):
        tune(config)
