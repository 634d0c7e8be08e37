"""The two clients of S3: botocore's, which knows every setting, and obstore's, which is fast."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.store import S3Store as ObstoreS3

from mnist_ocr.errors import UsageError
from mnist_ocr.pacing import MAX_IN_FLIGHT
from mnist_ocr.s3_errors import no_credentials
from mnist_ocr.s3_listing import take_out_contents

CONNECT_TIMEOUT_S = 10
"""Seconds to wait for a store to take a connection; a firewall may drop it without a word."""

READ_TIMEOUT_S = 15
"""Seconds without a byte after which a request is given up, and repeated."""

REQUEST_TIMEOUT_S = 120
"""Seconds that a whole request may take: an object of 128 MiB at 1.1 MB/s."""

CREDENTIAL_LIFE = timedelta(minutes=5)
"""How long obstore may keep credentials before it asks botocore, which refreshes them, again."""


@dataclass(frozen=True)
class S3Clients:
    """Connections to one bucket; neither repeats a request by itself."""

    botocore: Any
    obstore: ObstoreS3
    endpoint: str
    region: str


def connect(uri: str, bucket: str, *, anonymous: bool, region: str | None = None) -> S3Clients:
    """Clients with the settings of every AWS tool: `AWS_PROFILE`, `AWS_ENDPOINT_URL`, roles, ...

    Args:
        uri: For error messages.
        bucket: Its name.
        anonymous: Sign nothing, look for no credentials.
        region: Instead of the one that is set.

    Raises:
        UsageError: no such profile, no credentials, or settings that make no sense.
    """
    session = botocore.session.Session()
    try:
        credentials = None if anonymous else session.get_credentials()
        client = session.create_client(
            "s3",
            # S3 itself needs some region
            region_name=region or session.get_config_variable("region") or "us-east-1",
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                max_pool_connections=MAX_IN_FLIGHT,
                retries={"total_max_attempts": 1},
                signature_version=UNSIGNED if anonymous else None,
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"Cannot open {uri}: {error} Check the AWS_* settings.") from error
    take_out_contents(client)
    if credentials is None and not anonymous:
        raise no_credentials(uri)
    endpoint, region = client.meta.endpoint_url, client.meta.region_name
    objects = ObstoreS3(
        bucket,
        endpoint=endpoint,
        region=region,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
            "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
            "pool_max_idle_per_host": str(MAX_IN_FLIGHT),
        },
        retry_config={"max_retries": 0},
        **(
            {"skip_signature": True}
            if anonymous
            else {"credential_provider": _credential_provider(credentials)}
        ),
    )
    return S3Clients(client, objects, endpoint, region)


def find_region(clients: S3Clients, bucket: str, error: Exception) -> str | None:
    """Where a bucket lies, if the store says so: S3 does, even to those who may not read it."""
    if found := re.search(r"<Region>([\w-]+)", str(error)):
        return found.group(1)
    try:
        response = clients.botocore.head_bucket(Bucket=bucket)
    except ClientError as refusal:
        response = refusal.response
    except BotoCoreError:
        return None
    region: str | None = response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return region


def _credential_provider(credentials: Any) -> Callable[[], Any]:
    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIAL_LIFE,
        }

    return provide
