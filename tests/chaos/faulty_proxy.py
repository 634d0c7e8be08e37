"""A seeded proxy in front of a real S3 server: what it does to a request depends on nothing else.

The fate of the n-th request of a kind for a path is drawn from (seed, method, path, n), so that a
schedule of faults can be repeated, whatever the order in which threads ask.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

FAULTS = ("503", "500", "reset", "short body", "wrong length", "stall", "trickle", "changed etag")

MAX_STALL_S = 2.0


@dataclass
class FaultyProxy:
    """What a proxy shall do; faults may be changed while it runs."""

    target: str
    """host:port of the server."""
    seed: int
    faults: tuple[str, ...] = ()
    """Those that are drawn from."""
    rate: float = 0.0
    """Share of the requests that are disturbed."""
    endpoint: str = ""
    done: Counter[str] = field(default_factory=Counter)
    """Requests disturbed, by fault."""
    gets: Counter[str] = field(default_factory=Counter)
    """GETs of objects, by path."""
    _seen: Counter[str] = field(default_factory=Counter)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def disturb(self, seed: int, faults: tuple[str, ...], rate: float) -> None:
        """Begin anew with other faults."""
        self.seed, self.faults, self.rate = seed, faults, rate
        self._seen.clear()

    def draw(self, method: str, path: str) -> tuple[str, random.Random]:
        """The fate of a request, and numbers for its details."""
        key = f"{method} {path}"
        self._seen[key] += 1
        if method == "GET" and "?" not in path:
            self.gets[path] += 1
        numbers = random.Random(f"{self.seed} {key} {self._seen[key]}")
        fault = numbers.choice(self.faults) if numbers.random() < self.rate else ""
        if fault == "changed etag" and (method != "GET" or "?" in path):
            fault = ""
        self.done[fault] += bool(fault)
        return fault, numbers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of a client."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            self._open.add(writer)
            try:
                while await self._answer(reader, writer):
                    pass
            finally:
                self._open.remove(writer)
                writer.close()

    async def stop(self, server: asyncio.Server) -> None:
        """End the server, and the connections that are open."""
        server.close()
        for writer in self._open:
            writer.transport.abort()
        while self._open:
            await asyncio.sleep(0.01)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may be used again."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        body = await reader.readexactly(int(read_headers(head).get("content-length", 0)))
        fault, numbers = self.draw(method, path)
        if fault in {"503", "500"}:
            code = "SlowDown" if fault == "503" else "InternalError"
            message = f"<Error><Code>{code}</Code></Error>".encode()
            writer.write(
                b"HTTP/1.1 %s -\r\ncontent-length: %d\r\n\r\n" % (fault.encode(), len(message))
            )
            writer.write(b"" if method == "HEAD" else message)
            return True
        if fault == "reset" and numbers.random() < 0.5:  # before the server hears of it
            writer.transport.abort()
            return False
        if fault == "stall":
            await asyncio.sleep(numbers.uniform(0, MAX_STALL_S))
        async with self._forward(method, head + body) as (head, content):
            return await pass_on(writer, fault, numbers, head, content)

    @asynccontextmanager
    async def _forward(self, method: str, request: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """The server's answer: its head, and its body without transfer encoding."""
        host, port = self.target.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            headers = read_headers(head)
            content = b""
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await reader.readline(), 16):
                    content += await reader.readexactly(size)
                    await reader.readexactly(2)
                head = replace_header(head, b"transfer-encoding", None)
                head = replace_header(head, b"content-length", b"%d" % len(content))
            elif method != "HEAD":
                content = await reader.readexactly(int(headers.get("content-length", 0)))
            yield head, content
        finally:
            writer.close()


async def pass_on(
    writer: asyncio.StreamWriter, fault: str, numbers: random.Random, head: bytes, content: bytes
) -> bool:
    """Pass an answer on, more or less; whether the connection may be used again."""
    some = content[: numbers.randrange(len(content))] if content else b""
    if fault in {"reset", "short body"}:
        writer.write(head + some)
        await writer.drain()
        if fault == "reset":
            writer.transport.abort()
        return False
    if fault == "wrong length" and content:
        writer.write(replace_header(head, b"content-length", b"%d" % len(some)) + some)
    elif fault == "changed etag":
        writer.write(replace_header(head, b"etag", b'"%032x"' % numbers.getrandbits(128)) + content)
    elif fault == "trickle":
        writer.write(head)
        for start in range(0, len(content), len(content) // 8 + 1):
            await asyncio.sleep(0.05)
            writer.write(content[start : start + len(content) // 8 + 1])
    else:
        writer.write(head + content)
    await writer.drain()
    return True


def read_headers(head: bytes) -> Mapping[str, str]:
    """By their names in lower case."""
    lines = (line.decode("latin-1").partition(":") for line in head.split(b"\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in lines}


def replace_header(head: bytes, name: bytes, value: bytes | None) -> bytes:
    """With another value, or without it."""
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(name + b":")]
    if value is not None:
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


@contextmanager
def serve_faults(endpoint: str, seed: int) -> Iterator[FaultyProxy]:
    """A proxy in a thread of its own."""
    proxy = FaultyProxy(endpoint.removeprefix("http://"), seed)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listen = asyncio.start_server(proxy.serve, "127.0.0.1", 0, backlog=256)
    server = asyncio.run_coroutine_threadsafe(listen, loop).result()
    proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
