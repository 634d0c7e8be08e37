"""Lists of URIs as input: every line once, in their order, and resumable."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import pack_idx, pack_parquet, pack_tar
from fsspec.registry import known_implementations

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling import list_files
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import open_store

NAMES = ["b.png", "a/c.png", "b.png", "a/0 é,+%20.png"]
"""Out of order, and one twice."""


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of three files, whose content is their name."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def pack_csv(rows: list[list[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def pack_table(columns: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def read_all(source: Source) -> list[tuple[str, object]]:
    """(path, content or status) of every row, in order."""
    infos = list(source.list())
    return [
        (source.uri_of(info.name), getattr(content, "status", content))
        for info, content in zip(infos, source.read_many(infos), strict=True)
    ]


LISTS = {
    "list.txt": lambda names: "\n".join(names).encode(),
    "windows.txt": lambda names: b"\xef\xbb\xbf" + "\r\n".join([*names, ""]).encode(),
    "gaps.txt.gz": lambda names: gzip.compress("\n\n".join(names).encode()),
    "first.csv": lambda names: pack_csv([[name, "7"] for name in names]),
    "named.csv": lambda names: pack_csv([["label", "Path"], *(["7", name] for name in names)]),
    "url.csv.gz": lambda names: gzip.compress(pack_csv([["url"], *([name] for name in names)])),
    "list.parquet": lambda names: pack_table({"label": [7] * len(names), "uri": names}),
}


@pytest.mark.parametrize("how", ["relative", "absolute", "file"])
@pytest.mark.parametrize("name", LISTS)
def test_every_line_is_a_row_in_the_lists_order(name: str, how: str, scans: Path) -> None:
    """Of any format; listed on from any of them; relative to the list, absolute or file://."""
    start = {"relative": "", "absolute": f"{scans}/", "file": f"file://{scans}/"}[how]
    (scans / name).write_bytes(LISTS[name]([start + each for each in NAMES]))
    source = open_source(str(scans / name))
    assert source.uri == str(scans / name)
    assert read_all(source) == [(f"{scans}/{each}", each.encode()) for each in NAMES]
    assert source.take_traffic().num_requests == len(NAMES)
    infos = list(source.list())
    for i, info in enumerate(infos):
        assert list(open_source(str(scans / name)).list(info)) == infos[i + 1 :]


def test_archives_on_a_list_are_opened(scans: Path) -> None:
    """Each in the place of its line, also the second time, and listed on from any member."""
    (scans / "x.tar").write_bytes(pack_tar({"1.png": b"1", "2.png": b"2"}))
    (scans / "list.txt").write_text("x.tar\nb.png\nnone.tar\nx.tar\n")
    source = open_source(str(scans / "list.txt"))
    members = [(f"{scans}/x.tar::1.png", b"1"), (f"{scans}/x.tar::2.png", b"2")]
    single = [(f"{scans}/b.png", b"b.png"), (f"{scans}/none.tar", "missing")]
    assert read_all(source) == [*members, *single, *members]
    infos = list(source.list())
    for i, info in enumerate(infos):
        assert list(source.list(info)) == infos[i + 1 :]
    assert len(list(open_source(str(scans / "list.txt"), ("1.png", "b.png")).list())) == 4


@pytest.mark.parametrize("name", ["x.parquet", "x.tar.gz", "x.tar", "x.idx.gz"])
def test_archive_that_is_listed_twice_running_is_read_twice(name: str, scans: Path) -> None:
    """Its members come in its order both times."""
    pages = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    members = {f"{i}.png": bytes([i]) for i in (1, 2, 3)}
    contents = {
        "x.parquet": pack_parquet(list(members.values()), row_group_size=1),
        "x.tar.gz": gzip.compress(pack_tar(members)),
        "x.tar": pack_tar(members),
        "x.idx.gz": gzip.compress(pack_idx(pages)),
    }
    (scans / name).write_bytes(contents[name])
    (scans / "list.txt").write_text(f"{name}\n{name}\n")
    found = [content for _, content in read_all(open_source(str(scans / "list.txt")))]
    expected = list(pages) if "idx" in name else list(members.values())
    np.testing.assert_array_equal(found, expected * 2)


def test_line_that_leads_nowhere_is_a_row(scans: Path) -> None:
    """Missing files, unknown protocols and folders stop nobody."""
    (scans / "list.txt").write_text("none.png\nhtp://x/y.png\na\nb.png\n")
    rows = read_all(open_source(str(scans / "list.txt")))
    assert [content for _, content in rows] == ["missing", "unreadable", "unreadable", b"b.png"]
    assert rows[1][0] == "htp://x/y.png"


@pytest.mark.parametrize("ending", [b".png", b".tar"])
@pytest.mark.parametrize(
    "start",
    [
        b"s3://b/M\xfcller",  # Latin-1
        b"s3://b\xfc/M",
        b"s3:///x",
        b"s3://a b/x",
        b"none://b/x",  # a protocol whose package is not installed
        b"https:///x",
        b"a\0b",
    ],
)
def test_line_that_no_store_can_be_asked_for_is_a_row(
    start: bytes, ending: bytes, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its protocol, archive or not; the others are read."""
    missing = {"class": "no_such_package.Files", "err": "Install no_such_package"}
    monkeypatch.setitem(known_implementations, "none", missing)
    (scans / "list.txt").write_bytes(b"b.png\n" + start + ending + b"\na/c.png")
    rows = read_all(open_source(str(scans / "list.txt")))
    assert [content for _, content in rows] == [b"b.png", "unreadable", b"a/c.png"]
    assert rows[1][0].endswith(ending.decode())
    infos = list(open_source(str(scans / "list.txt")).list())
    assert list(open_source(str(scans / "list.txt")).list(infos[1])) == infos[2:]


def test_missing_credentials_are_no_row(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They concern every line of the bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_PROFILE", "none")
    (scans / "list.txt").write_text("s3://b/x.png")
    with pytest.raises(UsageError, match="AWS_"):
        read_all(open_source(str(scans / "list.txt")))


def test_list_may_name_several_stores(scans: Path) -> None:
    """Rows keep their order, whatever store each is in."""
    open_store("memory://lists").write("m.png", b"m")
    lines = ["memory://lists/m.png", f"{scans}/b.png", "memory://lists/m.png"]
    (scans / "list.txt").write_text("\n".join(lines))
    assert [c for _, c in read_all(open_source(str(scans / "list.txt")))] == [b"m", b"b.png", b"m"]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_list_that_changed_may_not_be_listed_on(after: int, scans: Path) -> None:
    """Ids would go to other objects than those on record."""
    (scans / "list.txt").write_text("\n".join(NAMES))
    infos = list(open_source(str(scans / "list.txt")).list())
    (scans / "list.txt").write_text("a/c.png\nother.png")
    with pytest.raises(UsageError, match="has changed since the job began"):
        list(open_source(str(scans / "list.txt")).list(infos[after]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b"a" * 200_000),
        ("list.txt.gz", b"no gzip"),
        ("list.txt.gz", gzip.compress(b"b.png\n" * 99999)[:500]),
        ("manifest.json", b"{}"),
        ("manifest.json", b"[]"),
        ("manifest.json", b"no JSON"),
    ],
)
def test_damaged_list_is_one_sentence(name: str, content: bytes, scans: Path) -> None:
    """The job cannot know what it is missing."""
    (scans / name).write_bytes(content)
    with pytest.raises(UsageError, match=name):
        list(open_source(str(scans / name)).list())


def test_object_of_unknown_size_is_read_up_to_a_limit(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list may name anything."""
    monkeypatch.setattr("mnist_ocr.labelling.reading.MAX_BYTES", 5)
    (scans / "list.txt").write_text("\n".join(NAMES))
    contents = [content for _, content in read_all(open_source(str(scans / "list.txt")))]
    assert contents == [b"b.png", "too_large", b"b.png", "too_large"]


def test_parquet_is_images_before_it_is_a_list(scans: Path) -> None:
    """With a column of bytes it is an archive, whatever else it has; without either, one row."""
    (scans / "a.parquet").write_bytes(pack_table({"path": ["b.png"], "image": [b"1"]}))
    (scans / "b.parquet").write_bytes(pack_table({"label": [7]}))
    assert read_all(open_source(str(scans / "a.parquet"))) == [(f"{scans}/a.parquet::0", b"1")]
    assert read_all(open_source(str(scans / "b.parquet"))) == [
        (f"{scans}/b.parquet", "not_an_image")
    ]
    (scans / "c").mkdir()
    (scans / "c/list.parquet").write_bytes(pack_table({"path": ["../b.png"]}))
    (scans / "c/list.txt").write_bytes(b"../b.png")
    found = [content for _, content in read_all(open_source(str(scans / "c")))]
    assert found == ["not_an_image", b"../b.png"]  # only the input itself is taken for a list


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_s3_inventory(kind: str, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are decoded, sizes and etags believed; older versions and delete markers left out."""
    monkeypatch.setattr(list_files, "open_store", lambda uri, **_: open_store(str(scans)))
    keys = ["b.png", "a/0 é,+%20.png", "gone.png", "old.png"]
    if kind == "CSV":
        quoted = ["b.png", "a/0+%C3%A9%2C%2B%2520.png", "gone.png", "old.png"]
        rows = [
            ["scans", key, latest, gone, "5", "e"]
            for key, latest, gone in zip(
                quoted, ["true"] * 3 + ["false"], ["false", "false", "true", "false"], strict=True
            )
        ]
        (scans / "data.csv.gz").write_bytes(gzip.compress(pack_csv(rows)))
        part, schema = "data.csv.gz", "Bucket, Key, IsLatest, IsDeleteMarker, Size, ETag"
    else:
        columns = {
            "bucket": ["scans"] * 4,
            "key": keys,
            "is_latest": [True, True, True, False],
            "is_delete_marker": [False, False, True, False],
            "size": [5] * 4,
            "e_tag": ["e"] * 4,
        }
        (scans / "data.parquet").write_bytes(pack_table(columns))
        part, schema = "data.parquet", "message s3.inventory { required binary bucket (UTF8); }"
    manifest = {
        "sourceBucket": "scans",
        "destinationBucket": "arn:aws:s3:::inventories",
        "fileFormat": kind,
        "fileSchema": schema,
        "files": [{"key": part, "size": 1, "MD5checksum": "0"}],
    }
    (scans / "manifest.json").write_text(json.dumps(manifest))
    infos = list(open_source(str(scans / "manifest.json")).list())
    assert [info.name for info in infos] == [f"s3://scans/{key}" for key in keys[:2]]
    assert [(info.size, info.etag) for info in infos] == [(5, "e\t\t1"), (5, "e\t\t2")]


@pytest.mark.parametrize("etag", ["e-2", '"e-2"'])
def test_etag_of_a_list_may_have_quotes(etag: str, scans: Path) -> None:
    """As the AWS CLI prints it; a listing has none around it."""
    rows = [["bucket", "key", "etag", "size"], ["b", "x.png", etag, "5"]]
    (scans / "list.csv").write_bytes(pack_csv(rows))
    (info,) = open_source(str(scans / "list.csv")).list()
    assert (info.name, info.size, info.etag) == ("s3://b/x.png", 5, "e-2\t\t1")


def test_rows_of_a_list_are_read_without_it(scans: Path) -> None:
    """A worker needs the manifest only."""
    (scans / "x.idx").write_bytes(pack_idx(np.zeros((2, 2, 2), np.uint8)))
    (scans / "x.parquet").write_bytes(pack_parquet([b"1"]))
    (scans / "list.txt").write_text("x.idx\nx.parquet\nb.png")
    infos = list(open_source(str(scans / "list.txt")).list())
    worker = open_source(str(scans / "list.txt"))
    (scans / "list.txt").unlink()
    contents = list(worker.read_many(infos))
    assert not any(isinstance(content, ObjectError) for content in contents)
    assert contents[2:] == [b"1", b"b.png"]
