"""All topics on one machine: what runs on the driver and, as a task, on every node."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Any

from mnist_ocr.diagnosis import access, bucket, gpus, hardware, token, versions
from mnist_ocr.diagnosis.findings import Finding
from mnist_ocr.diagnosis.looking import Trouble, look_at_all

OWN_SHARE = 0.75
"""Of the time that a node has, for its looks: a worker has to start before, and answer after."""


@dataclass(frozen=True)
class Request:
    """What to look at."""

    input_uri: str | None
    output_uri: str | None
    model_uri: str | None
    anonymous: bool
    timeout_s: float
    is_driver: bool
    driver_file: str | None = None
    """Name of the file that the driver has left in the output until all nodes have seen it."""


@dataclass(frozen=True)
class Report:
    """What came of it."""

    facts: Mapping[str, Any]
    """By topic: what its module looks at, or `Trouble`."""
    time_s: float
    """The machine's clock when it was sent, in seconds since 1970."""


def new_file_name() -> str:
    """A new name for a file in the output; `label` and `verify` take no notice of such."""
    return f".doctor-{token_hex(8)}"


def look_at_machine(request: Request) -> Report:
    """Facts about the machine that this process runs on."""
    looks: dict[str, Callable[[], object]] = {
        "versions": versions.look_at_versions,
        "hardware": hardware.look_at_hardware,
        "gpus": gpus.look_at_gpus,
        "token": token.look_at_token,
        "model": partial(access.try_model, request.model_uri),
    }
    if request.input_uri:
        looks["input"] = partial(access.try_input, request.input_uri, anonymous=request.anonymous)
    if request.output_uri:
        looks["output"] = partial(
            access.try_output,
            request.output_uri,
            new_file_name(),
            request.driver_file,
            keep=request.is_driver,
        )
    for name, (uri, anonymous) in _find_buckets(request).items():
        looks[f"bucket {name}"] = partial(bucket.look_at_bucket, uri, anonymous=anonymous)
    facts = look_at_all(looks, OWN_SHARE * request.timeout_s)
    return Report(facts, time.time())


def _find_buckets(request: Request) -> dict[str, tuple[str, bool]]:
    """A URI in each bucket of S3, and whether it is asked without a signature."""
    uris = {request.input_uri: request.anonymous, request.output_uri: False}
    uris |= {request.model_uri: False}
    return {
        uri.removeprefix("s3://").partition("/")[0]: (uri, anonymous)
        for uri, anonymous in uris.items()
        if uri and uri.startswith("s3://")
    }


def judge_machine(
    report: Report, driver: Report, in_ray: Mapping[str, float] | None = None
) -> Iterator[Finding]:
    """Findings about a machine.

    Args:
        report: Its own.
        driver: The driver's.
        in_ray: What Ray takes it to have, if it is a node.
    """
    num_gpus = None if in_ray is None else in_ray.get("GPU", 0)
    expected = driver.facts["versions"]
    if isinstance(expected, Trouble):  # which is a finding about the driver
        expected = {}
    judges: dict[str, Callable[[Any], Iterator[Finding]]] = {
        "versions": lambda found: versions.judge_versions(found, expected),
        "hardware": lambda found: hardware.judge_hardware(found, in_ray),
        "gpus": lambda found: gpus.judge_gpus(found, num_gpus),
        "token": lambda found: token.judge_token(found, is_node=in_ray is not None),
        "bucket": bucket.judge_bucket,
        "input": lambda found: iter([Finding("input", "ok", f"read {found}")]),
        "output": judge_trial,
        "model": lambda found: iter([Finding("model", "ok", found)]),
    }
    for topic, found in report.facts.items():
        check = topic.partition(" ")[0]
        if isinstance(found, Trouble):
            yield Finding(check, "problem", found.message, found.remedy)
        else:
            yield from judges[check](found)


def judge_trial(trial: access.Trial) -> Iterator[Finding]:
    """A finding about a file that was written, and is to be gone."""
    if trial.is_kept:
        yield Finding(
            "output",
            "warning",
            f"wrote and read a file in {trial.folder}, and may not delete it: {trial.name} stays",
            "Delete it. `label` needs no right to delete, `prune` does (s3:DeleteObject).",
        )
    else:
        yield Finding("output", "ok", f"wrote, read and deleted a file in {trial.folder}")
