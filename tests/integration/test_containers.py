"""The same digits in every container, on disk and on a real S3 server: the same rows."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import encode_png, write_containers
from services import S3Server

from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.verification import verify

NUM_IMAGES = 96

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def bucket(rclone_server: S3Server, digit_images: np.ndarray) -> Path:
    """A bucket's folder: single images, archives, and lists of both."""
    assert rclone_server.root
    root = rclone_server.root / "containers"
    images = digit_images[:NUM_IMAGES]
    write_containers(root / "archives", images)
    for i, image in enumerate(images):
        path = root / f"2026-{i // 48}/crops/{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
    (root / "mixed").mkdir()
    for i, name in enumerate(("a.tar", "b.zip", "c.parquet")):
        halves = write_containers(root / "halves", images[i * 24 : i * 24 + 24])
        source = {"a.tar": "digits.tar", "b.zip": "digits.zip", "c.parquet": "struct.parquet"}[name]
        shutil.copy(halves[source], root / "mixed" / name)
    for i in range(72, NUM_IMAGES):
        (root / f"mixed/d{i:04d}.png").write_bytes(encode_png(images[i]))
    return root


def run(uri: str, output: Path, model_uri: str, **options: object) -> pd.DataFrame:
    options = {"num_gpus_per_actor": 0.0, "shard_size": 40, **options}
    summary = label(LabelConfig(uri, str(output), model_uri, **options))
    assert verify(VerifyConfig(str(output))).problems == []
    rows = pd.read_parquet(output).sort_values("id", ignore_index=True)
    rows.attrs["requests_per_image"] = summary.requests_per_image
    return rows


@pytest.fixture(scope="module")
def expected(
    bucket: Path, model_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    """The rows of the single images."""
    rows = run(f"{bucket}/2026-*/", tmp_path_factory.mktemp("expected") / "out", model_uri)
    assert rows["status"].eq("ok").all()
    assert len(rows) == NUM_IMAGES
    return rows


INPUTS = (
    "2026-*/crops/*.png",
    "archives/digits.tar",
    "archives/digits.tar.gz",
    "archives/digits.zip",
    "archives/stored.zip",
    "archives/binary.parquet",
    "archives/struct.parquet",
    "archives/digits-idx3-ubyte",
    "archives/digits-idx3-ubyte.gz",
    "mixed",
)


@pytest.mark.parametrize("place", ["disk", "s3"])
@pytest.mark.parametrize("name", INPUTS)
def test_container_gives_the_rows_of_its_images(
    name: str,
    place: str,
    bucket: Path,
    expected: pd.DataFrame,
    model_uri: str,
    tmp_path: Path,
    rclone_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Digits, probabilities and order; a path each; far fewer requests than images."""
    for key, value in rclone_server.environment.items():
        monkeypatch.setenv(key, value)
    root = str(bucket) if place == "disk" else "s3://containers"
    rows = run(f"{root}/{name}", tmp_path / "out", model_uri)
    exact = ["id", "digit", "accepted", "status"]
    pd.testing.assert_frame_equal(rows[exact], expected[exact])
    np.testing.assert_allclose(
        np.stack(rows["probabilities"]), np.stack(expected["probabilities"]), atol=1e-6
    )
    assert rows["path"].is_unique
    assert rows["path"].str.startswith(root).all()
    if name.startswith("archives"):
        assert rows["path"].str.startswith(f"{root}/{name}::").all()
        assert rows.attrs["requests_per_image"] <= 5 / NUM_IMAGES
