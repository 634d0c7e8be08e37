"""Images on a web server, named by a list."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mnist_ocr.errors import ObjectError, StorageUnreachableError
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.manifest import iterate_shards, read_shard
from mnist_ocr.storage import open_store


@pytest.fixture
def server() -> Iterator[str]:
    """Answers with the status that the path begins with."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_refused = "sig=" in self.path and not self.path.endswith("sig=valid-secret")
            self.send_response(403 if is_refused else int(self.path[1:4]))
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"image")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    thread.join()
    listener.server_close()


def read(folder: Path, *uris: str) -> list[object]:
    (folder / "list.txt").write_text("\n".join(uris))
    source = open_source(str(folder / "list.txt"))
    contents = source.read_many(list(source.list()))
    return [each.status if isinstance(each, ObjectError) else each for each in contents]


def test_what_a_web_server_refuses_is_a_row(server: str, tmp_path: Path) -> None:
    """By its status; the others are read."""
    uris = [f"{server}/{status}/a.png" for status in (200, 403, 404, 410, 416, 200)]
    assert read(tmp_path, *uris) == [
        b"image",
        "forbidden",
        "missing",
        "missing",
        "unreadable",
        b"image",
    ]


def test_web_server_that_fails_ends_the_job(server: str, tmp_path: Path) -> None:
    """Or an outage would be a million rows."""
    with pytest.raises(StorageUnreachableError, match="500"):
        read(tmp_path, f"{server}/500/a.png")


def test_signed_urls_are_read_and_not_written_down(server: str, tmp_path: Path) -> None:
    """Signatures stay in the list; a job goes on with a list that has new ones."""
    uris = [f"{server}/200/{i}.png?id={i}&sig=expired-secret" for i in range(3)]
    (tmp_path / "list.txt").write_text("\n".join(uris))
    source, output = open_source(str(tmp_path / "list.txt")), open_store(str(tmp_path / "out"))
    output.write("_job.json", b"{}")
    assert list(iterate_shards(source, output, shard_size=8)) == [0]
    objects = read_shard(output, 0).objects(source)
    refused = [str(error) for error in source.read_many(objects)]
    assert refused[2] == f"The server answers 403 for {server}/200/2.png?id=2&sig=REDACTED."
    (tmp_path / "list.txt").write_text("\n".join(uris).replace("expired", "valid"))
    assert list(source.read_many(objects)) == [b"image"] * 3
    assert list(source.list(objects[0])) == objects[1:]
    assert "secret" not in str(read_shard(output, 0).table.to_pydict())
