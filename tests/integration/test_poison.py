"""Images that end, hold up or exhaust their decoder cost one row each, on either pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import poison
import pyarrow.parquet as pq
import pytest

from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.verification import verify

pytestmark = pytest.mark.usefixtures("ray_session")

NUM_IMAGES, SHARD_SIZE = 400, 50

CULPRITS = {37: "segfault", 120: "hold", 121: "exhaust", 260: "spin", 261: "raise", 399: "abort"}
"""In four of the eight shards."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, digit_images: np.ndarray) -> Path:
    """PNG files, of which a fake decoder dies of a few; every third is a noisy page."""
    folder = tmp_path_factory.mktemp("scans")
    noise = np.random.default_rng(1).integers(0, 40, (NUM_IMAGES, 28, 28), np.uint8)
    for i in range(NUM_IMAGES):
        image = digit_images[i % len(digit_images)]
        page = np.maximum(image, noise[i]) if i % 3 == 0 else image
        (folder / f"{i:03d}.png").write_bytes(poison.encode(page, CULPRITS.get(i, "")))
    return folder


def label_with(site: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command, its workers with a `sitecustomize`."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = {"runtime_env": {"env_vars": {"PYTHONPATH": path}}}
    environment = os.environ | {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}
    command = [sys.executable, "-m", "mnist_ocr", "label", *arguments]
    command += ["--shard-size", str(SHARD_SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == code, done.stderr
    return done


def read_rows(output: Path) -> list[dict[str, object]]:
    return pq.read_table(output).sort_by("id").to_pylist()


@pytest.mark.parametrize("num_gpus", ["0", "0.5"])
def test_images_that_end_the_decoder_cost_a_row_each(
    num_gpus: str, scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """They alone are `poison`; all other rows are those of a run that nothing happened to."""
    site = poison.write_fake_decoder(tmp_path / "fake")
    calm_config = LabelConfig(
        str(scans),
        str(tmp_path / "calm"),
        model_uri,
        num_gpus_per_actor=float(num_gpus),
        num_actors=1,
        shard_size=SHARD_SIZE,
    )
    label(calm_config)
    options = ["--model-uri", model_uri, "--num-gpus-per-actor", num_gpus, "--num-actors", "1"]
    options += ["--max-error-rate", "0.01"]
    done = label_with(site, str(scans), str(tmp_path / "out"), *options, code=3)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["statuses"]["poison"] == len(CULPRITS)
    assert verify(VerifyConfig(str(tmp_path / "out"))).problems == []
    calm, rows = read_rows(tmp_path / "calm"), read_rows(tmp_path / "out")
    assert "poison" not in {row["status"] for row in calm}
    for undisturbed, row in zip(calm, rows, strict=True):
        if row["id"] in CULPRITS:
            assert (row["status"], row["digit"], row["accepted"]) == ("poison", None, False)
            assert str(row["error"]).startswith("Decoding it ")
        else:
            assert row == undisturbed


def test_shard_that_ends_every_worker_is_given_up(
    scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """Outside of decoding: all other shards are done, the error names it, the command resumes."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os\n"
        "from mnist_ocr.labelling import pipeline\n"
        "write_predictions = pipeline.write_predictions\n"
        "def write(output, job, shard, *rest):\n"
        "    if shard == 2:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return write_predictions(output, job, shard, *rest)\n"
        "pipeline.write_predictions = write\n"
    )
    output = tmp_path / "out"
    options = [str(scans), str(output), "--model-uri", model_uri, "--num-gpus-per-actor", "0"]
    done = label_with(site, *options, code=1)
    message = done.stderr.splitlines()[-1]
    assert "_manifest/00000002.arrow" in message
    assert "the same command" in message
    parts = sorted(path.name for path in output.glob("part-*.parquet"))
    assert parts == [f"part-{i:08d}.parquet" for i in range(8) if i != 2]
    assert not (output / "_SUCCESS").exists()
    (site / "sitecustomize.py").write_text("")
    label_with(site, *options)
    assert verify(VerifyConfig(str(output))).problems == []
