"""`pack` on a shared Ray: what is packed labels as the originals do, from disk and from S3."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import encode_png, pack_idx, pack_tar
from services import S3Server

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import manifest, tar_archive
from mnist_ocr.labelling.config import LabelConfig, PackConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.pack import pack
from mnist_ocr.labelling.packing import PackJob, pack_shard
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.storage import open_store

ODD_NAMES = [
    "plain.png",
    "%41+ #?.png",
    " a .png",
    "line\nbreak.png",
    "d\u00e9j\u00e0/\u6570.png",
    "[*]?.png",
    "folder/" * 20 + "deep.png",
    "back\\slash.png",
    "x" * 120 + ".png",
]


def build_input(images: np.ndarray, names: list[str]) -> dict[str, bytes]:
    """Images under odd names, others in archives, and what is no image."""
    contents = {name: encode_png(image) for name, image in zip(names, images, strict=False)}
    members = {f"m/{i}.png": encode_png(image) for i, image in enumerate(images[20:30])}
    contents["archive.tar"] = pack_tar({**members, "m/empty.png": b"", "m/notes.txt": b"seven"})
    contents["pages-idx3-ubyte"] = pack_idx(images[30:40])
    return {**contents, "notes.txt": b"no image"}


@pytest.fixture
def environment(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """This process talks to rclone, as Ray's workers do."""
    for key, value in rclone_server.environment.items():
        monkeypatch.setenv(key, value)
    return rclone_server


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("place", "kind"), [("disk", "tar"), ("disk", "parquet"), ("s3", "tar")])
def test_packed_images_have_the_labels_of_the_originals(
    place: str,
    kind: str,
    environment: S3Server,
    tmp_path: Path,
    model_uri: str,
    digit_images: np.ndarray,
) -> None:
    """The same digits and probabilities in the same order, under the same names."""
    names = ODD_NAMES
    if place == "s3":
        root, client = "s3://pack", environment.client()
        client.create_bucket(Bucket="pack")
        for name, content in build_input(digit_images, names).items():
            client.put_object(Bucket="pack", Key=f"in/{name}", Body=content)
    else:
        root, names = str(tmp_path), [*ODD_NAMES, os.fsdecode(b"not UTF-8 \xff.png")]
        for name, content in build_input(digit_images, names).items():
            open_store(f"{root}/in").write(name, content)
    packed = pack(PackConfig(f"{root}/in", f"{root}/packed", format=kind, shard_size=10))
    num_images = len(names) + 12 + 10 + 1
    assert packed.statuses == {"ok": num_images}
    assert packed.requests_per_image < (len(names) + 10) / num_images

    options = {"num_gpus_per_actor": 0.0, "shard_size": 1000}
    tables = {}
    for folder in ("in", "packed/shards"):
        output = tmp_path / f"labels-{len(tables)}"
        label(LabelConfig(f"{root}/{folder}", str(output), model_uri, **options))
        tables[folder] = pd.read_parquet(output).sort_values("id", ignore_index=True)
    before, after = tables["in"], tables["packed/shards"]
    assert set(before["status"]) == {"ok", "empty", "not_an_image"}
    pd.testing.assert_frame_equal(
        *(table.drop(columns=["path", "error"]) for table in (before, after))
    )
    if kind == "tar":
        paths = after["path"].str.extract(r"^.*?/shards/\d{8}-\d{5}\.tar::(.*)$", 16)[0]
        originals = before["path"].str.removeprefix(f"{root}/in/")
        pages = originals.str.contains("idx3")
        expected = originals.str.replace("::", "/", regex=False) + np.where(pages, ".png", "")
        assert paths.tolist() == expected.tolist()
    else:
        rows = pd.read_parquet(tmp_path / "packed/shards")
        assert rows["path"].tolist() == before["path"].tolist()


def test_keys_that_only_a_bucket_has_survive(
    moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Double slashes, dots, markers of folders, the longest key."""
    for key, value in moto_server.environment.items():
        monkeypatch.setenv(key, value)
    client = moto_server.client()
    client.create_bucket(Bucket="odd")
    keys = ["a//b.png", "a/../b.png", "a/./c.png", "d\u00e9/", "folder/", "\u00e9" * 505 + ".png"]
    for key in ["in/", *(f"in/{key}" for key in keys)]:
        client.put_object(Bucket="odd", Key=key, Body=key.encode())
    source, output = open_source("s3://odd/in"), open_store(str(tmp_path))
    list(manifest.iterate_shards(source, output, shard_size=100))
    job = PackJob(
        job_id="1",
        input_uri=source.uri,
        output_uri=output.uri,
        extensions=(),
        anonymous=False,
        shard_size=100,
        versions={},
        format="tar",
    )
    assert pack_shard(source, output, job, 0, Stopwatch()).statuses == {"ok": 7}
    with (tmp_path / "shards/00000000-00000.tar").open("rb") as file:
        members = list(tar_archive.list_members(file))
        found = {}
        for member in members:
            start, end = tar_archive.locate(member.position, member.size)
            file.seek(start)
            found[member.name] = file.read(end - start).decode()
    assert found == {"": "in/", **{key: f"in/{key}" for key in keys}}


@pytest.fixture
def scans(tmp_path: Path, digit_images: np.ndarray) -> Path:
    """A folder of 256 PNG files."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i, image in enumerate(digit_images):
        (folder / f"{i:03d}.png").write_bytes(encode_png(image))
    return folder


def read_shards(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "shards").iterdir()}


@pytest.mark.usefixtures("ray_session")
def test_killed_driver_then_the_same_command_gives_the_uninterrupted_files(
    scans: Path, tmp_path: Path
) -> None:
    """After kill -9 the same command finishes the job, and no finished shard is read again."""
    pack(PackConfig(str(scans), str(tmp_path / "whole"), shard_size=4))
    whole = read_shards(tmp_path / "whole")
    assert len(whole) == 64
    output = tmp_path / "out"
    command = [sys.executable, "-m", "mnist_ocr", "pack", str(scans), str(output)]
    command += ["--shard-size", "4"]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(list(output.glob("errors/*.parquet"))) < 5:
        assert driver.poll() is None, "the driver ended before it could be killed"
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # until Ray has ended the workers of the dead driver
    finished = sorted(int(path.stem) for path in output.glob("errors/*.parquet"))
    assert not (output / "_SUCCESS").exists()
    assert 5 <= len(finished) < 64
    for shard in finished:  # if read again these would be `missing`
        for i in range(4 * shard, 4 * shard + 4):
            (scans / f"{i:03d}.png").unlink()

    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["statuses"] == {"ok": 256}
    assert summary["num_images_this_run"] == 256 - 4 * len(finished)
    assert read_shards(output) == whole


@pytest.mark.usefixtures("ray_session")
def test_finished_job_is_complete_and_no_other_may_add_to_it(
    scans: Path, tmp_path: Path, model_uri: str
) -> None:
    """The same command touches nothing; other flags, and other commands, are refused."""
    (scans / "gone.png").symlink_to(scans / "nowhere.png")
    config = PackConfig(str(scans), str(tmp_path / "out"))
    first = pack(config)
    assert first.statuses == {"ok": 256, "missing": 1}
    errors = pd.read_parquet(tmp_path / "out/errors")
    assert errors["path"].tolist() == [f"{scans}/gone.png"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = pack(config)
    assert (again.num_images_this_run, again.statuses) == (0, first.statuses)
    with pytest.raises(UsageError, match="format was 'tar', is 'parquet'"):
        pack(PackConfig(str(scans), str(tmp_path / "out"), format="parquet"))
    with pytest.raises(UsageError, match="of another command or version of mnist-ocr"):
        label(LabelConfig(str(scans), str(tmp_path / "out"), model_uri))
    with pytest.raises(UsageError, match="lie one in the other"):
        pack(PackConfig(str(tmp_path / "**/*.tar"), str(tmp_path / "more")))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
