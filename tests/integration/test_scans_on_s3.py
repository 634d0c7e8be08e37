"""A user's labelled scans in a bucket of a real S3 server."""

from pathlib import Path

import pytest
from scans import PNGS, assert_all_there, load, write_folder, write_parquet
from services import S3Server, free_port

from mnist_ocr.errors import StorageUnreachableError, UsageError
from mnist_ocr.storage import open_store


@pytest.fixture
def bucket(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URI that this process may write to."""
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    client = rclone_server.client()
    if "digits" not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket="digits")
    return "s3://digits"


def upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for path in folder.rglob("*.*"):
        store.write(path.relative_to(folder).as_posix(), path.read_bytes())


def test_bucket_of_class_folders_loads_as_its_folder(bucket: str, tmp_path: Path) -> None:
    """The same images in the same splits, the same objects skipped; a class 10/ is refused."""
    folder = write_folder(tmp_path / "scans")
    (folder / "3/notes.png").write_text("this is no image")
    (folder / "README.txt").write_text("scans of 2026")
    upload(folder, f"{bucket}/2026/scans")
    local, remote = load(folder), load(f"{bucket}/2026/scans/")
    assert remote.describe() == local.describe()
    assert remote.skipped == {"not_an_image": 1, "not_in_a_class_folder": 1}

    open_store(f"{bucket}/2026/scans").write("10/a.png", PNGS[0])
    with pytest.raises(UsageError, match=r"s3://digits/2026/scans holds 10/ \(1 objects\), but"):
        load(f"{bucket}/2026/scans")


def test_parquet_in_a_bucket_loads_by_file_and_by_folder(bucket: str, tmp_path: Path) -> None:
    """A URI of one file needs no listing; a wrong column is named with the whole address."""
    write_parquet(tmp_path / "a.parquet")
    upload(tmp_path, f"{bucket}/table")
    assert_all_there(load(f"{bucket}/table/a.parquet"))
    assert_all_there(load(f"{bucket}/table"))
    with pytest.raises(UsageError, match=r"s3://digits/table/a.parquet needs one column 'digit'"):
        load(f"{bucket}/table", label_column="digit")
    with pytest.raises(UsageError, match=r"There is no s3://digits/table/b.parquet"):
        load(f"{bucket}/table/b.parquet")


def test_missing_bucket_empty_prefix_and_outage_are_told_apart(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two are the user's to correct; after an outage the same command works again."""
    with pytest.raises(UsageError, match="no bucket nowhere"):
        load("s3://nowhere/scans")
    with pytest.raises(UsageError, match=r"no class folders .* s3://digits/none: it holds nothing"):
        load(f"{bucket}/none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnreachableError, match="AWS_ENDPOINT_URL"):
        load(f"{bucket}/scans")
