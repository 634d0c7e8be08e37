"""Images on a web server, named by a list."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mnist_ocr.errors import ObjectError, StorageUnreachableError
from mnist_ocr.labelling.inputs import open_source


@pytest.fixture
def server() -> Iterator[str]:
    """Answers with the status that the path begins with."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path[1:4]))
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
