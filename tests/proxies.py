"""A proxy in front of a real S3 server that answers some requests itself."""

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from services import S3Server


class Answer(NamedTuple):
    """Instead of the server's."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


SLOW_DOWN = Answer(503, b"<Error><Code>SlowDown</Code></Error>")

Policy = Callable[[str, str, Mapping[str, str]], Answer | None]
"""(method, path, headers) -> None to forward the request; called by many threads, one at a time."""

Judge = Callable[[str, str, bytes], Answer | None]
"""(method, path, body) -> the same."""


@contextmanager
def proxy(
    server: S3Server, policy: Policy = lambda *_: None, *, judge: Judge = lambda *_: None
) -> Iterator[str]:
    """The address of a proxy. What `policy` lets through, `judge` is asked about."""
    target = server.endpoint.removeprefix("http://")
    lock, connections = threading.Lock(), list[http.client.HTTPConnection]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.upstream = http.client.HTTPConnection(target)
            connections.append(self.upstream)

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                answer = policy(self.command, self.path, self.headers)
                answer = answer or judge(self.command, self.path, body)
            self.answer(answer or self.forward(body))

        def forward(self, body: bytes) -> Answer:
            # with the Host that was signed
            self.upstream.request(self.command, self.path, body, dict(self.headers.items()))
            response = self.upstream.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))

        def answer(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            length = str(len(answer.body))
            for name, value in answer.headers.items():
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    listener = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
        for connection in connections:
            connection.close()
