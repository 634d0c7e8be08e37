"""The `aws` command, as far as cluster/*.sh use it, without a process of boto3 for each call.

What is on the PATH is a few lines that hand their arguments to this process, where moto answers.
Operations, arguments and types are those of botocore's models, of which the real command is made,
so that a misspelt one is refused here, too.
"""

import json
import re
import socketserver
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import jmespath
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.model import ListShape, StructureShape

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall(json.dumps([os.getcwd(), sys.argv[1:]]).encode() + b"\\n")
    answer = json.loads(b"".join(iter(lambda: server.recv(65536), b"")))
sys.stdout.write(answer["stdout"])
sys.stderr.write(answer["stderr"])
sys.exit(answer["status"])
"""


@contextmanager
def aws_command(folder: Path, region: str) -> Iterator[None]:
    """Put `aws` into a folder; it works until the block ends."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            cwd, arguments = json.loads(self.rfile.readline())
            try:
                answer = {"stdout": run(arguments, Path(cwd), region), "stderr": "", "status": 0}
            except (ClientError, ValueError) as error:
                answer = {"stdout": "", "stderr": f"\n{error}\n", "status": 254}
            self.wfile.write(json.dumps(answer).encode())

    address = str(folder / "aws.socket")
    command = folder / "aws"
    command.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    command.chmod(0o755)
    with socketserver.ThreadingUnixStreamServer(address, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def run(arguments: Sequence[str], cwd: Path, region: str) -> str:
    """What `aws ARGUMENTS` prints.

    Raises:
        ValueError: There is no such operation or argument.
        ClientError: AWS says no.
    """
    service, *words = arguments
    operation = words.pop(0)
    waits = operation == "wait"
    if waits:
        operation = words.pop(0)
    client = boto3.client({"s3api": "s3"}.get(service, service), region)
    options = read_options(words)
    if "query" in options and "output" not in options:
        raise ValueError("without --output the format is the user's own setting")
    (query,) = options.pop("query", ["@"])
    (output,) = options.pop("output", ["json"])
    if waits:
        waiter = client.get_waiter(operation.replace("-", "_"))
        waiter.wait(**read_request(client, waiter.config.operation, options, cwd))
        return ""
    names = {xform_name(name, "-"): name for name in client.meta.service_model.operation_names}
    if operation not in names:
        raise ValueError(f"{service} has no operation {operation}")
    request = read_request(client, names[operation], options, cwd)
    response = getattr(client, xform_name(names[operation]))(**request)
    response.pop("ResponseMetadata")
    if not response:
        return ""
    found = jmespath.search(query, response)
    return f"{write_text(found)}\n" if output == "text" else f"{json.dumps(found, default=str)}\n"


def read_options(words: Sequence[str]) -> dict[str, list[str]]:
    """`--name value value` -> values by name."""
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            values = options.setdefault(word.removeprefix("--"), [])
        else:
            values.append(word)
    return options


def read_request(
    client: Any, operation: str, options: dict[str, list[str]], cwd: Path
) -> dict[str, Any]:
    """The options as boto3 takes them."""
    shape = client.meta.service_model.operation_model(operation).input_shape
    members = {xform_name(name, "-"): name for name in shape.members}
    if unknown := options.keys() - members.keys():
        raise ValueError(f"{operation} has no option {sorted(unknown)}")
    return {
        members[name]: read_value(shape.members[members[name]], values, cwd)
        for name, values in options.items()
    }


def read_value(shape: Any, values: list[str], cwd: Path) -> Any:
    """One option's value: text, a file's content, JSON, or shorthand (`Name=a,Values=b,c`)."""
    if isinstance(shape, ListShape):
        if values[0].startswith("["):
            return json.loads(values[0])
        if isinstance(shape.member, StructureShape):
            return [read_shorthand(shape.member, value) for value in values]
        return values
    (value,) = values
    if value.startswith("file://"):
        return (cwd / value.removeprefix("file://")).read_text(encoding="utf-8")
    return value


def read_shorthand(shape: StructureShape, text: str) -> dict[str, Any]:
    """`Name=a,Values=b,c` -> {"Name": "a", "Values": ["b", "c"]}."""
    fields = dict(part.split("=", 1) for part in re.split(r",(?=\w+=)", text))
    return {
        name: value.split(",") if isinstance(shape.members[name], ListShape) else value
        for name, value in fields.items()
    }


def write_text(found: Any) -> str:
    """As `--output text` does."""
    return "\t".join(found) if isinstance(found, list) else str(found)
