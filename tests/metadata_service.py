"""EC2's instance metadata service (IMDSv2) on the loopback interface.

Documents are files: `meta-data/spot/instance-action` below a folder is
`/latest/meta-data/spot/instance-action`, so that writing that file is the notice.

    python metadata_service.py FOLDER PORT
"""

import json
import secrets
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NOTICE = "meta-data/spot/instance-action"
REBALANCE = "meta-data/events/recommendations/rebalance"


class MetadataService(ThreadingHTTPServer):
    """Answers GETs that bring a token which an earlier PUT got, and has not expired since."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder
        self.tokens: dict[str, float] = {}
        """Each with the `time.monotonic()` at which it expires."""
        self.failures: list[int] = []
        """Statuses that the next requests get."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each so far."""

    @property
    def endpoint(self) -> str:
        """For AWS_EC2_METADATA_SERVICE_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Of one request."""

    server: MetadataService

    def do_PUT(self) -> None:
        """A token."""
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.fails():
            return
        if self.path != "/latest/api/token" or not ttl.isdecimal() or not 1 <= int(ttl) <= 21600:
            self.answer(400)
            return
        token = secrets.token_urlsafe(40)
        self.server.tokens[token] = time.monotonic() + int(ttl)
        self.answer(200, token.encode())

    def do_GET(self) -> None:
        """A document."""
        token = self.headers.get("X-aws-ec2-metadata-token", "")
        path = self.server.folder / self.path.removeprefix("/latest/")
        if self.fails():
            return
        if self.server.tokens.get(token, 0.0) <= time.monotonic():
            self.answer(401)
        elif path.is_file():
            self.answer(200, path.read_bytes())
        else:
            self.answer(404)

    def fails(self) -> bool:
        """Answer with the next failure, if there is one."""
        self.server.requests.append((self.command, self.path))
        if not self.server.failures:
            return False
        self.answer(self.server.failures.pop(0))
        return True

    def answer(self, status: int, body: bytes = b"") -> None:
        """Status and body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def give_notice(folder: Path, seconds: float, action: str = "terminate") -> None:
    """Announce what EC2 will do to the instance, so many seconds from now."""
    when = datetime.fromtimestamp(time.time() + seconds, UTC)
    document = {"action": action, "time": when.strftime("%Y-%m-%dT%H:%M:%SZ")}
    path = folder / NOTICE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps(document))
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    MetadataService(Path(sys.argv[1]), int(sys.argv[2])).serve_forever()
