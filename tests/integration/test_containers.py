"""The same digits in every container, on disk and on a real S3 server: the same rows."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import encode_png, write_containers
from services import S3Server

from mnist_ocr.labelling import manifest, manifest_shard
from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.shards import read_images
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import Store, open_store

NUM_IMAGES = 96

ARCHIVES = (
    "archives/binary.parquet",
    "archives/digits-idx3-ubyte",
    "archives/digits-idx3-ubyte.gz",
    "archives/digits.tar",
    "archives/digits.tar.gz",
    "archives/digits.zip",
    "archives/stored.zip",
    "archives/struct.parquet",
)
LISTS = ("list.txt", "list.csv", "list.parquet", "inventory/manifest.json")


def write_lists(root: Path) -> None:
    """Lists of the single images, and one of all archives."""
    names = sorted(str(path.relative_to(root)) for path in root.glob("2026-*/crops/*.png"))
    (root / "list.txt").write_text("\n".join(names))
    text = io.StringIO()
    csv.writer(text).writerows([["label", "url"], *(["7", name] for name in names)])
    (root / "list.csv").write_text(text.getvalue())
    pq.write_table(pa.table({"path": names}), root / "list.parquet")
    (root / "everything.txt").write_text("\n".join(["2026-0/crops/0007.png", *ARCHIVES]))


def write_inventory(root: Path, bucket: Store) -> None:
    """Of the single images in the bucket; a copy of the manifest lies on disk."""
    infos = [info for page in bucket.list("2026-") for info in page]
    lines = io.StringIO()
    csv.writer(lines).writerows(["containers", i.name, i.size, i.etag] for i in infos)
    bucket.write("inventory/data.csv.gz", gzip.compress(lines.getvalue().encode()))
    document = {
        "destinationBucket": "arn:aws:s3:::containers",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, ETag",
        "files": [{"key": "inventory/data.csv.gz"}],
    }
    for store in (bucket, open_store(str(root))):
        store.write("inventory/manifest.json", json.dumps(document).encode())


@pytest.fixture(scope="module")
def folder(
    rclone_server: S3Server, digit_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Single images, archives, and lists of both; the bucket `containers` holds the same."""
    root = tmp_path_factory.mktemp("containers")
    write_containers(root / "archives", digit_images[:NUM_IMAGES])
    for i, image in enumerate(digit_images[:NUM_IMAGES]):
        path = root / f"2026-{i // 48}/crops/{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
    write_lists(root)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in rclone_server.environment.items():
            patch.setenv(key, value)
        rclone_server.client().create_bucket(Bucket="containers")
        bucket = open_store("s3://containers")
        for path in filter(Path.is_file, root.rglob("*")):
            bucket.write(str(path.relative_to(root)), path.read_bytes())
        write_inventory(root, bucket)
    return root


@pytest.fixture(params=["disk", "s3"])
def root(
    request: pytest.FixtureRequest,
    folder: Path,
    rclone_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The same files in either place."""
    for key, value in rclone_server.environment.items():
        monkeypatch.setenv(key, value)
    return {"disk": str(folder), "s3": "s3://containers"}[request.param]


@pytest.mark.parametrize("name", ["2026-*/crops/*.png", *ARCHIVES, *LISTS])
def test_every_container_holds_the_same_images(
    name: str, root: str, tmp_path: Path, digit_images: np.ndarray
) -> None:
    """Read by shards, as workers do, in few requests; each with a path of its own."""
    source, output = open_source(f"{root}/{name}"), open_store(str(tmp_path))
    num_requests, images, paths = 0, [], []
    for shard in manifest.iterate_shards(source, output, shard_size=40):
        rows = manifest_shard.read_shard(output, shard)
        batch, traffic = read_images(open_source(f"{root}/{name}"), rows)
        assert set(batch.status) == {"ok"}
        images.append(batch.images)
        paths += rows.table["path"].to_pylist()
        num_requests += traffic.num_requests
    single = output.uri + "/single"
    Path(single).mkdir()
    for i, image in enumerate(digit_images[:NUM_IMAGES]):
        Path(single, f"{i:04d}.png").write_bytes(encode_png(image))
    folder = open_source(single)
    batch, _ = read_images(folder, shard_of(folder, tmp_path / "out"))
    np.testing.assert_array_equal(np.concatenate(images), batch.images)
    assert len(set(paths)) == NUM_IMAGES
    start = f"{root}/{name}::" if name.startswith("archives") else ("s3://", root)
    assert all(path.startswith(start) for path in paths)
    assert num_requests == (NUM_IMAGES if "archives" not in name else 3)


def shard_of(source: object, folder: Path) -> manifest_shard.ManifestShard:
    folder.mkdir()
    output = open_store(str(folder))
    list(manifest.iterate_shards(source, output, shard_size=NUM_IMAGES))
    return manifest_shard.read_shard(output, 0)


@pytest.mark.usefixtures("ray_session")
def test_labels_are_the_same_from_every_container(
    root: str, tmp_path: Path, model_uri: str
) -> None:
    """A pattern, a folder of archives and a list of archives give the digits of the images."""
    options = {"num_gpus_per_actor": 0.0, "shard_size": 60}
    tables, summaries = {}, {}
    for name in ("2026-*/crops/*.png", "archives/", "everything.txt"):
        output = tmp_path / f"out-{len(tables)}"
        config = LabelConfig(f"{root}/{name}", str(output), model_uri, **options)
        summaries[name] = label(config)
        assert verify(VerifyConfig(str(output))).problems == []
        tables[name] = pd.read_parquet(output).sort_values("id", ignore_index=True)
    expected = tables["2026-*/crops/*.png"]
    assert len(expected) == NUM_IMAGES
    assert expected["status"].eq("ok").all()
    folder, listed = tables["archives/"], tables["everything.txt"]
    assert listed["path"][0] == f"{root}/2026-0/crops/0007.png"
    pd.testing.assert_frame_equal(
        listed[1:].drop(columns="id").reset_index(drop=True), folder.drop(columns="id")
    )
    for archive in ARCHIVES:
        rows = folder[folder["path"].str.startswith(f"{root}/{archive}::")]
        columns = ["digit", "confidence", "accepted", "status"]
        pd.testing.assert_frame_equal(
            rows[columns].reset_index(drop=True), expected[columns], atol=1e-5
        )
    assert summaries["2026-*/crops/*.png"].requests_per_image == 1
    assert summaries["archives/"].requests_per_image < 0.05


@pytest.mark.usefixtures("ray_session")
def test_job_within_archives_resumes(root: str, tmp_path: Path, model_uri: str) -> None:
    """With a part and the end of the listing lost, the same command ends with the same rows."""
    config = LabelConfig(
        f"{root}/archives/", str(tmp_path / "out"), model_uri, num_gpus_per_actor=0.0, shard_size=70
    )
    label(config)
    whole = pd.read_parquet(tmp_path / "out").sort_values("id", ignore_index=True)
    for name in ("_SUCCESS", "_manifest/complete.json", "part-00000002.parquet"):
        (tmp_path / "out" / name).unlink()
    for shard in range(6, 11):
        (tmp_path / f"out/_manifest/{shard:08d}.arrow").unlink()
        (tmp_path / f"out/part-{shard:08d}.parquet").unlink()
    assert label(config).num_images_this_run == 70 + 8 * NUM_IMAGES - 6 * 70
    again = pd.read_parquet(tmp_path / "out").sort_values("id", ignore_index=True)
    pd.testing.assert_frame_equal(again, whole)
