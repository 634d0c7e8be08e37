"""Local folders, other file systems, and what a URI is; buckets are in integration/test_s3.py."""

import errno
import os
import stat
import threading
import time
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import UNKNOWN_SIZE, ByteRange, ObjectInfo, open_store, resolve_uri


def write_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def list_names(uri: str | Path, **options: str) -> list[str]:
    return [info.name for page in open_store(str(uri)).list(**options) for info in page]


def test_listing_has_the_order_of_a_buckets_keys(tmp_path: Path) -> None:
    """Names sort by their UTF-8 bytes as whole paths, `/` included."""
    names = ["a/z.png", "a.png", "a-b.png", "b/c/d.png", ".hidden", "é.png", "Z.png", "a/b.png"]
    write_files(tmp_path, *names)
    assert list_names(tmp_path) == sorted(names, key=str.encode)


def test_listing_goes_on_after_any_name(tmp_path: Path) -> None:
    """`start_after` leaves out what comes before and the name itself."""
    write_files(tmp_path, *(f"{i // 10}/{i}.png" for i in range(40)))
    names = list_names(tmp_path)
    for i in (0, 9, 10, 38):
        assert list_names(tmp_path, start_after=names[i]) == names[i + 1 :]


def test_listing_of_a_prefix(tmp_path: Path) -> None:
    """A prefix may be a folder, or the beginning of names."""
    write_files(tmp_path, "part-1", "part-2", "other", "_manifest/1", "_manifest/2")
    assert list_names(tmp_path, prefix="part-") == ["part-1", "part-2"]
    assert list_names(tmp_path, prefix="_manifest/") == ["_manifest/1", "_manifest/2"]
    assert list_names(tmp_path, prefix="none/") == []


def test_links_are_followed_once_and_pipes_left_out(tmp_path: Path) -> None:
    """A link to a folder is listed, a link back up is not a loop, a broken link keeps its row."""
    write_files(tmp_path / "elsewhere", "x.png")
    write_files(tmp_path / "scans", "a.png")
    (tmp_path / "scans/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "scans/loop").symlink_to(tmp_path / "scans")
    (tmp_path / "scans/self").symlink_to("self")
    (tmp_path / "scans/broken.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "scans/pipe")
    assert list_names(tmp_path / "scans") == ["a.png", "broken.png", "linked/x.png", "self"]


def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    """A pipe without a writer, a device without end, a folder: a list may name them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    store = open_store(str(tmp_path))
    for name in ("pipe", "device", "folder"):
        with pytest.raises(ObjectError, match=f"{name} is no regular file") as caught:
            store.read(name)
        assert caught.value.status == "unreadable"
        with pytest.raises(ObjectError, match="is no regular file"):
            store.read_range(ByteRange(name, 0, 4, ""))


def test_missing_folder_and_file_in_its_place_are_told_apart(tmp_path: Path) -> None:
    """The message says which of the two it is."""
    with pytest.raises(UsageError, match="does not exist"):
        list_names(tmp_path / "none")
    write_files(tmp_path, "file.png")
    with pytest.raises(UsageError, match="is a file"):
        list_names(tmp_path / "file.png")


def test_reading_tells_missing_from_changed(tmp_path: Path) -> None:
    """An etag from the listing protects from reading something else."""
    write_files(tmp_path, "a.png")
    store = open_store(str(tmp_path))
    [[info]] = store.list()
    assert store.read(info.name, info.etag) == b"a.png"
    (tmp_path / "a.png").write_bytes(b"something else")
    with pytest.raises(ObjectError, match="has changed") as caught:
        store.read(info.name, info.etag)
    assert caught.value.status == "changed"
    (tmp_path / "a.png").unlink()
    with pytest.raises(ObjectError, match="no file") as caught:
        store.read(info.name, info.etag)
    assert caught.value.status == "missing"


def test_writing_replaces_whole_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    """Folders are made, the file is replaced at once, no temporary file stays."""
    store = open_store(str(tmp_path / "new/folder"))
    store.write("x/a.bin", b"1" * 1000)
    store.write("x/a.bin", b"2")
    assert (tmp_path / "new/folder/x/a.bin").read_bytes() == b"2"
    assert list_names(tmp_path) == ["new/folder/x/a.bin"]
    mode = stat.S_IMODE((tmp_path / "new/folder/x/a.bin").stat().st_mode)
    assert mode & 0o077 == (0o666 & ~_umask()) & 0o077


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_failed_write_says_why_and_leaves_the_old_file(tmp_path: Path) -> None:
    """A folder in the file's place: one sentence, and no temporary file."""
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(UsageError, match=r"Cannot write .*a\.bin"):
        open_store(str(tmp_path)).write("a.bin", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]


def test_other_file_systems_work_through_fsspec() -> None:
    """`memory://` stands for all of them: list, read, write, missing."""
    store = open_store("memory://bucket/scans")
    store.write("b/2.png", b"two")
    store.write("1.png", b"one")
    assert list_names("memory://bucket/scans") == ["1.png", "b/2.png"]
    assert store.read("b/2.png") == b"two"
    with pytest.raises(ObjectError, match="There is no memory://bucket/scans/3"):
        store.read("3.png")
    with pytest.raises(ObjectError, match="has changed since it was listed"):
        store.read("1.png", size=4)


@pytest.mark.parametrize("is_async", [False, True])
def test_only_asynchronous_file_systems_are_read_by_several_threads(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may have one connection, as FTP has."""
    threads = set()

    def wait_and_read(self: MemoryFileSystem, path: str, *_: object) -> bytes:
        threads.add(threading.current_thread())
        time.sleep(0.001)
        return path.encode()

    monkeypatch.setattr(MemoryFileSystem, "cat_file", wait_and_read)
    monkeypatch.setattr(MemoryFileSystem, "async_impl", is_async)
    infos = [ObjectInfo(f"{i}.png", len(f"/bucket/{i}.png"), "") for i in range(200)]
    contents = list(open_store("memory://bucket").read_many(infos))
    assert contents == [f"/bucket/{i}.png".encode() for i in range(200)]
    assert (threads == {threading.current_thread()}) == (not is_async)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "The URI is empty"),
        ("s3://", "No bucket"),
        ("nonsense://x", "Unknown protocol"),
    ],
)
def test_uri_that_makes_no_sense_is_refused(uri: str, message: str) -> None:
    """With one sentence that says what to pass instead."""
    with pytest.raises(UsageError, match=message):
        open_store(uri)


def test_spellings_of_a_folder_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute, file:// and with a slash at the end are the same job."""
    monkeypatch.chdir(tmp_path)
    spellings = ["scans", "scans/", "./scans", f"{tmp_path}/scans", f"file://{tmp_path}/scans/"]
    assert {resolve_uri(spelling) for spelling in spellings} == {f"{tmp_path}/scans"}
    assert resolve_uri("s3://bucket/scans/") == "s3://bucket/scans"


def test_uri_that_is_not_utf8_is_refused() -> None:
    """Its bytes could be neither printed nor written as JSON."""
    with pytest.raises(UsageError, match="is not UTF-8"):
        resolve_uri("models/\udcff")


@pytest.mark.parametrize("uri", ["models/\0", "~\0", "file://models/\0"])
def test_path_with_a_nul_is_refused(uri: str) -> None:
    """No file's name has one."""
    with pytest.raises(UsageError, match="has a NUL in it"):
        resolve_uri(uri)


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_part_of_an_object(kind: str, tmp_path: Path) -> None:
    """A range gives its bytes, fewer where the object ends, none behind its end."""
    store = open_store(str(tmp_path) if kind == "folder" else f"memory://{tmp_path.name}")
    store.write("a/b.bin", b"0123456789")
    info = store.find("a/b.bin")
    assert info is not None
    assert info.size == 10
    starts = (0, 8, 10, 20)
    ranges = [ByteRange("a/b.bin", start, 4, info.etag) for start in starts]
    assert list(store.read_ranges(ranges)) == [b"0123", b"89", b"", b""]
    assert store.find("a/b") is None
    assert store.find("a") is None


def test_part_of_a_file_that_changed_is_no_bytes(tmp_path: Path) -> None:
    """The etag is compared for parts, too."""
    store = open_store(str(tmp_path))
    store.write("a.bin", b"0123456789")
    (error,) = store.read_ranges([ByteRange("a.bin", 0, 4, "other")])
    assert isinstance(error, ObjectError)
    assert error.status == "changed"


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_object_larger_than_its_reader_can_use_is_not_read(kind: str, tmp_path: Path) -> None:
    """For objects whose size no listing has told."""
    store = open_store(str(tmp_path) if kind == "folder" else f"memory://{tmp_path.name}")
    store.write("a.bin", b"0123456789")
    infos = [ObjectInfo("a.bin", UNKNOWN_SIZE, "")]
    assert list(store.read_many(infos, max_bytes=10)) == [b"0123456789"]
    (error,) = store.read_many(infos, max_bytes=9)
    assert isinstance(error, ObjectError)
    assert error.status == "too_large"


def test_error_of_a_file_whose_name_is_not_utf8_can_be_a_row(tmp_path: Path) -> None:
    """Its sentence spells the name with escapes, as the manifest does."""
    name = os.fsdecode(b"7\xe9.png")
    (tmp_path / name).write_bytes(b"x")
    store = open_store(str(tmp_path))
    infos = [info for page in store.list() for info in page]
    (tmp_path / name).unlink()
    (error,) = store.read_many(infos)
    assert isinstance(error, ObjectError)
    assert str(error).encode().endswith(b"7\\udce9.png (any more).")


@pytest.mark.parametrize("kind", ["disk", "disk without links", "memory"])
def test_object_that_is_there_is_not_created(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content may be: a command does not know what has become of its last try."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    if kind == "disk without links":
        monkeypatch.setattr(os, "link", refuse)
    store = open_store("memory://created" if kind == "memory" else str(tmp_path))
    for _ in range(2):
        store.create("a/b.json", b"mine")
    with pytest.raises(FileExistsError, match=r"b\.json is there already"):
        store.create("a/b.json", b"another's")
    assert store.read("a/b.json") == b"mine"
    assert [info.name for page in store.list() for info in page] == ["a/b.json"]
