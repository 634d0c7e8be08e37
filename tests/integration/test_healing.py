"""What `verify` advises heals an output; and what it asks of a store."""

import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from proxies import proxy
from services import S3Server

from mnist_ocr.errors import DamagedOutputError
from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.verification import verify

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, model_uri: str, digit_images: np.ndarray
) -> LabelConfig:
    """A finished job of four shards of 64 images."""
    folder = tmp_path_factory.mktemp("healing")
    (folder / "scans").mkdir()
    for i, image in enumerate(digit_images):
        content = cv2.imencode(".png", image)[1].tobytes()
        (folder / f"scans/{i:03d}.png").write_bytes(content)
    config = LabelConfig(
        str(folder / "scans"),
        str(folder / "out"),
        model_uri,
        num_gpus_per_actor=0.0,
        shard_size=64,
    )
    label(config)
    return config


def find(output: Path) -> list[str]:
    return verify(VerifyConfig(str(output))).problems


def follow(output: Path, problem: str) -> None:
    """Do what a person would who knows nothing but this sentence."""
    name = problem.split()[0]
    if "Delete it" in problem:
        (output / name).unlink()
    if "Move it away" in problem:
        (output / name).rename(output.parent / "away")
    if number := re.search(r"delete what has the number (\d{8}) or a higher one", problem):
        for path in [*output.glob("part-*"), *output.glob("_manifest/*.arrow")]:
            if path.name.removeprefix("part-")[:8] >= number[1]:
                path.unlink()
        (output / "_manifest/complete.json").unlink()
    if "_SUCCESS" in problem:
        (output / "_SUCCESS").unlink(missing_ok=True)


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_advice_heals_the_output(config: LabelConfig) -> None:
    """Damage, verify, do as it says, label again, verify: the rows are those of before."""
    output = Path(config.output_uri)
    before = pd.read_parquet(output)
    part = [output / f"part-{shard:08d}.parquet" for shard in range(5)]
    flip_bit(part[0])
    shutil.copy(part[2], part[1])
    part[3].unlink()
    shutil.copy(part[2], part[4])
    problems = find(output)
    assert len(problems) == 4
    for problem in problems:
        follow(output, problem)
    assert label(config).num_images_this_run == 192
    assert find(output) == []
    pd.testing.assert_frame_equal(pd.read_parquet(output), before)

    flip_bit(output / "_manifest/00000002.arrow")
    (problem,) = find(output)
    follow(output, problem)
    part[1].unlink()
    shutil.copy(output / "_manifest/00000000.arrow", output / "kept")
    (output / "_manifest/00000000.arrow").unlink()
    with pytest.raises(DamagedOutputError, match=r"_manifest/00000000\.arrow is missing"):
        label(config)
    (output / "kept").rename(output / "_manifest/00000000.arrow")
    assert label(config).num_images_this_run == 192
    assert find(output) == []
    pd.testing.assert_frame_equal(pd.read_parquet(output), before)


def test_each_file_is_asked_for_once(
    config: LabelConfig, rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On S3: a GET for each manifest shard, part and document; and listings, of generations too."""
    shutil.copytree(config.output_uri, rclone_server.make_bucket("verified") / "out")
    requests = Counter[str]()

    def count(method: str, path: str, _: Mapping[str, str]) -> None:
        name = path.partition("?")[0].rpartition("/")[2]
        requests[f"{method} {'listing' if 'list-type' in path else name}"] += 1

    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    with proxy(rclone_server, count) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        verification = verify(VerifyConfig("s3://verified/out"))
    assert (verification.num_images, verification.problems) == (256, [])
    files = [path for path in Path(config.output_uri).rglob("*") if path.is_file()]
    expected = {f"GET {path.name}": 1 for path in files} | {"GET listing": 2, "GET _CURRENT": 1}
    assert len(files) == 4 + 4 + 3
    assert requests == expected
