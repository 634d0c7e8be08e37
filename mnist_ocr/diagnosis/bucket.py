"""A bucket on S3 as seen from a machine: its region, its latency, its clock."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from statistics import median

from mnist_ocr.diagnosis.clock import judge_clock
from mnist_ocr.diagnosis.findings import Finding

CHECK = "bucket"

NUM_REQUESTS = 5
"""Whose median is the latency; the first one also connects."""

MAX_LATENCY_S = 0.1
"""Of a HEAD within a region, with much to spare: it takes S3 10 to 30 ms."""


@dataclass(frozen=True)
class Bucket:
    """What a store says of a bucket."""

    name: str
    endpoint: str
    region: str | None
    """Where it is, if the store says so; S3 does."""
    region_set: str
    """Where requests are sent to."""
    latency_s: float
    clock_skew_s: float | None
    """By how much this machine is ahead, to half a second, if the store says what time it is."""


def look_at_bucket(uri: str, *, anonymous: bool) -> Bucket:
    """Facts about the bucket of `s3://bucket/prefix`, by a few small requests.

    Raises:
        UsageError: no credentials.
        StorageUnreachableError: no answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from mnist_ocr.s3_clients import connect
    from mnist_ocr.s3_errors import ErrorSorter

    name = uri.removeprefix("s3://").partition("/")[0]
    clients = connect(uri, name, anonymous=anonymous)
    seconds: list[float] = []
    for _ in range(NUM_REQUESTS):
        sent = time.monotonic()
        try:
            response = clients.botocore.head_bucket(Bucket=name)
        except ClientError as refusal:  # S3 tells also those who may not read it
            response = refusal.response
        except BotoCoreError as error:
            raise ErrorSorter(uri, name, clients.endpoint).for_folder("list", error) from error
        now = time.time()
        seconds.append(time.monotonic() - sent)
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    latency_s = median(seconds)
    skew_s = None
    if date := headers.get("date"):  # which has whole seconds
        skew_s = now - latency_s / 2 - parsedate_to_datetime(date).timestamp() - 0.5
    return Bucket(
        name,
        clients.endpoint,
        headers.get("x-amz-bucket-region"),
        clients.region,
        latency_s,
        skew_s,
    )


def judge_bucket(found: Bucket) -> Iterator[Finding]:
    """Findings about a machine and a bucket."""
    if found.region and found.region != found.region_set:
        yield Finding(
            CHECK,
            "warning",
            f"{found.name} lies in {found.region}, the region set is {found.region_set}",
            f"Set AWS_DEFAULT_REGION={found.region}. If that machine runs elsewhere, every byte is "
            "paid for: start the cluster in the bucket's region.",
        )
    text = f"{found.name} in {found.region or found.region_set}, {found.endpoint}"
    if found.latency_s > MAX_LATENCY_S:
        yield Finding(
            CHECK,
            "warning",
            f"{text}: a small request takes {found.latency_s * 1000:,.0f} ms",
            "Start the cluster in the bucket's region, and reach it through a gateway endpoint.",
        )
    elif not found.region or found.region == found.region_set:
        yield Finding(CHECK, "ok", f"{text}: a small request takes under {round_up(found)}")
    if found.clock_skew_s is not None:
        yield judge_clock(found.clock_skew_s, f"the store ({found.endpoint})")


def round_up(found: Bucket) -> str:
    """`5 ms`, `20 ms`: coarse, so that machines that are alike share a line."""
    milliseconds = found.latency_s * 1000
    return f"{next(limit for limit in (5, 10, 20, 50, 100) if milliseconds <= limit)} ms"
