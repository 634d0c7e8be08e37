"""No password, token or signature is shown or stored, and what is left names the object."""

import json
import logging
import string
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from mnist_ocr import cli
from mnist_ocr.errors import JobFailedError, ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.redaction import redact, redact_uri
from mnist_ocr.storage import open_store, resolve_uri

SECRET = "s3cr3t-Zq81Xw"

SECRET_URIS = [
    f"https://user:{SECRET}@host/a.png",
    f"https://{SECRET}@host/a.png",
    f"s3://AKIAIOSFODNN7:{SECRET}/+x@bucket/a.png",
    f"ftp://user:{SECRET}@host:21/a.png",
    f"simplecache::sftp://user:{SECRET}@host/a.png",
    f"https://host/a.png?X-Amz-Credential={SECRET}%2F20260101&id=7",
    f"https://host/a.png?id=7&X-Amz-Signature={SECRET}&X-Amz-Date=20260101T000000Z",
    f"https://host/a.png?X-Amz-Security-Token={SECRET}%2F%2B==#page",
    f"https://host/a.png?AWSAccessKeyId=AKIA&Signature={SECRET}&Expires=1",
    f"https://host/a.png?X-Goog-Signature={SECRET}",
    f"https://acc.blob.core.windows.net/c/a.png?sv=2024&sp=r&sig={SECRET}",
    f"https://host/a.png?access_token={SECRET}",
    f"https://host/a.png?api-key={SECRET};page=2",
    f"https://host/a.png#access_token={SECRET}",
    f"https://host/a.png?password%5B%5D={SECRET}",
    f"https://host/a.png?user[password]={SECRET}",
    f"https://user:p/a@{SECRET}@host/a.png",
]


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_what_is_left_names_the_object(uri: str) -> None:
    """Protocol, host, path and other parameters stay; once is enough."""
    public = redact(uri)
    assert SECRET not in public
    assert "a.png" in public
    assert ("id=7" in public) == ("id=7" in uri)
    assert redact(public) == public


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b:c@d/x y.png",
        "https://host:8080/a@b.png?id=7&design=3&author=me",
        "abfs://container@account.dfs.core.windows.net/a.png",
        "sftp://user@host/a.png",
        "github://organisation:repository@main/a.png",
        "hf://datasets/user/name@main/a.png",
        "/data/scans/a:b@c.png",
        "12:30:00 3 shards: 5 images",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Names of objects may hold the same characters."""
    assert redact(text) == text


def test_hostile_text_takes_no_time() -> None:
    """An error may quote whatever a server has sent."""
    for part in ("x://", "x://a:", "&token", "x-amz-", "a.", "@", "?sig=", "https://a:b"):
        redact(part * (100_000 // len(part)) + ":=")


words = st.text(string.ascii_letters + string.digits + "+/=%._~-", min_size=1, max_size=12)
secrets = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12).map(
    lambda text: f"Zq{text}qZ"
)


@given(secret=secrets, user=words, path=words, template=st.sampled_from(SECRET_URIS), text=words)
def test_no_secret_is_left_anywhere_in_a_text(
    secret: str, user: str, path: str, template: str, text: str
) -> None:
    """In quotes, in brackets, twice; in each error that a person may see."""
    uri = template.replace(SECRET, secret).replace("user:", f"{user.replace('/', '')}:")
    uri = uri.replace("a.png", path.replace("%", "").replace("=", ""))
    message = f"{text} ('{uri}') <{uri}> url=\"{uri}\", {uri}: {text}"
    assert secret not in redact(message).replace(text, "")
    errors = [
        UsageError(message),
        StorageUnreachableError(message),
        JobFailedError(message),
        ObjectError("missing", message),
    ]
    shown = [str(error) + repr(error) for error in errors]
    shown.append(Locator(status="missing", error=message).encode())
    assert secret not in "".join(shown).replace(text, "")


@pytest.mark.parametrize("uri", SECRET_URIS)
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_command_takes_or_repeats_a_secret(
    command: str, uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """In no position: command lines are seen by others, in `ps` and on Ray's dashboard."""
    for arguments in ([uri], [uri, uri], [f"--model-uri={uri}"], ["--model-uri", uri], ["x", uri]):
        with pytest.raises(SystemExit) as caught:
            cli.main([command, *arguments])
        assert caught.value.code == cli.WRONG_USE
        output = capfd.readouterr()
        assert SECRET not in output.out + output.err
        assert "process lists, logs and job records" in output.err


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_the_python_api_refuses_the_same(uri: str) -> None:
    """Before anything is asked for."""
    for use in (open_store, open_source):
        with pytest.raises(UsageError, match="password, token or signature") as caught:
            use(uri)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_errors_of_other_packages_are_redacted(
    uri: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracebacks with their causes, and warnings that are logged."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def fail() -> int:
        try:
            raise ValueError(uri)
        except ValueError as error:
            logging.getLogger("aiohttp").warning("failed: %s", uri, exc_info=True)
            raise RuntimeError(f"a bug at {uri}") from error

    with pytest.raises(SystemExit) as caught:
        cli.run_or_exit(fail)
    assert caught.value.code == cli.FAILED
    output = capfd.readouterr().err
    assert output.count("Traceback") >= 2
    assert SECRET not in output


def test_file_systems_that_quote_a_url_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in what a traceback would show."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(f"403, url='https://host/a.png?sig={SECRET}'")

    for method in ("cat_file", "find", "info", "pipe_file"):
        monkeypatch.setattr(MemoryFileSystem, method, fail)
    store = open_store("memory://bucket")
    for use in (
        lambda: store.read("a"),
        lambda: list(store.list()),
        lambda: store.find("a"),
        lambda: store.write("a", b""),
    ):
        with pytest.raises(StorageUnreachableError, match="403") as caught:
            use()
        assert SECRET not in str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_line_of_a_list_is_public_in_the_manifest(uri: str, tmp_path: Path) -> None:
    """A signed URL keeps its signature in the list alone; one with a password is a row."""
    (tmp_path / "list.txt").write_text(f"a.png\n{uri}\n")
    source = open_source(str(tmp_path / "list.txt"))
    infos = list(source.list())
    assert SECRET not in json.dumps(infos)
    assert SECRET not in "".join(source.uri_of(info.name) for info in infos)
    assert redact(uri) == infos[1].name
    is_signed = "?" in uri
    assert (Locator.parse(infos[1].etag).status == "unreadable") == (not is_signed)
    assert list(source.list(infos[0])) == infos[1:]
    assert list(source.list(infos[1])) == []


def test_signatures_may_be_renewed(tmp_path: Path) -> None:
    """The list of the moment is read; a line that names another object now is `changed`."""
    memory = MemoryFileSystem()
    memory.pipe({"/b/a.png?sig=new": b"renewed", "/b/c.png?sig=old": b"other"})
    (tmp_path / "list.txt").write_text("memory://b/a.png?sig=old\nmemory://b/c.png?sig=old\n")
    source = open_source(str(tmp_path / "list.txt"))
    infos = list(source.list())
    (tmp_path / "list.txt").write_text("memory://b/a.png?sig=new\nmemory://b/d.png?sig=new\n")
    content, error = source.read_many(infos)
    assert content == b"renewed"
    assert isinstance(error, ObjectError)
    assert error.status == "changed"
    memory.rm("/b", recursive=True)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/scans/photos/me@2x.png",
        "s3://bucket/x?sig=1.png",
        "gs://bucket/R&D auth=1.png",
        "abfs://container@account.dfs.core.windows.net/a?token=b.png",
    ],
)
def test_names_of_object_stores_are_no_parameters(uri: str, tmp_path: Path) -> None:
    """An access point, and `?`, `&` and `@` in a key, are neither refused nor hidden."""
    assert redact_uri(uri) == uri
    assert resolve_uri(uri) == uri
    (tmp_path / "list.txt").write_text(uri + "\n")
    assert [info.name for info in open_source(str(tmp_path / "list.txt")).list()] == [uri]


def test_signed_lines_are_found_in_any_order(tmp_path: Path) -> None:
    """Shards come in order, mostly: what a worker has read of the list is not read again."""
    memory = MemoryFileSystem()
    names = [f"/b/{i}.png" for i in range(9)]
    memory.pipe({f"{name}?sig=x": name.encode() for name in names})
    (tmp_path / "list.txt").write_text("".join(f"memory:/{name}?sig=x\n" for name in names))
    source = open_source(str(tmp_path / "list.txt"))
    infos = list(source.list())
    for some in (infos[:3], infos[3:5], infos[7:], infos[4:8], infos):
        expected = [names[infos.index(info)].encode() for info in some]
        assert list(source.read_many(some)) == expected
    lines = (tmp_path / "list.txt").read_text()
    (tmp_path / "list.txt").write_text("memory://b/new.png\n" + lines)  # an update keeps numbers
    source = open_source(str(tmp_path / "list.txt"))
    assert list(source.read_many(infos)) == [name.encode() for name in names]
    memory.rm("/b", recursive=True)
