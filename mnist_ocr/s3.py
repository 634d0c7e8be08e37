"""Objects on S3 and its relatives: listings by botocore, contents by obstore.

botocore finds credentials, region and endpoint as every AWS tool does (`AWS_PROFILE`,
`AWS_ENDPOINT_URL`, instance roles, ...) and returns every key as it is; obstore carries the many
small GETs at 13 times the rate of `s3fs.cat`, but cannot express keys like `a//b` (those few go
through botocore).
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.session
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as ObstoreS3

from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.s3_errors import ErrorSorter, error_code, no_credentials
from mnist_ocr.storage import PAGE_SIZE, ByteRange, ObjectInfo, Store, check_size

NUM_THREADS = 16
"""GETs in flight per process; more gain nothing on one core (8,000 GET/s at 0.17 ms CPU each)."""

MAX_AHEAD = 4 * NUM_THREADS
"""Objects fetched and not yet taken."""

MAX_BYTES_AHEAD = 256 * 1024**2
"""The same in bytes, so that large files do not fill a worker's memory."""

CONNECT_TIMEOUT_S = 10
"""Seconds to wait for a store to take a connection; a firewall may drop it without a word."""

RETRY_TIMEOUT_S = 40
"""Seconds for which a request is repeated while the store answers 5xx: SlowDown, restarts."""

CREDENTIAL_LIFE = timedelta(minutes=5)
"""How long obstore may keep credentials before it asks botocore, which refreshes them, again."""


class S3Store(Store):
    """The objects under `s3://bucket/prefix/`.

    Raises:
        UsageError: no bucket in the URI, no such profile, or no credentials.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._bucket, _, folder = uri.removeprefix("s3://").partition("/")
        self._folder = f"{folder}/" if folder else ""
        if not self._bucket:
            raise UsageError(f"No bucket in {uri!r}. Write s3://bucket/prefix.")
        session = botocore.session.Session()
        try:
            credentials = session.get_credentials()
            self._client = session.create_client(
                "s3",
                config=Config(
                    connect_timeout=CONNECT_TIMEOUT_S,
                    max_pool_connections=NUM_THREADS,
                    retries={"mode": "standard", "total_max_attempts": 3},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"Cannot open {uri}: {error} Check the AWS_* settings.") from error
        if credentials is None:
            raise no_credentials(uri)
        endpoint = self._client.meta.endpoint_url
        self._errors = ErrorSorter(uri, self._bucket, endpoint)
        self._objects = ObstoreS3(
            self._bucket,
            endpoint=endpoint,
            region=self._client.meta.region_name or "us-east-1",
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            },
            retry_config={
                "max_retries": 20,
                "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
                # each wait is drawn from the first up to the base times the last
                "backoff": {
                    "init_backoff": timedelta(seconds=0.2),
                    "max_backoff": timedelta(seconds=10),
                    "base": 3,
                },
            },
            credential_provider=_credential_provider(credentials),
        )
        self._threads: ThreadPoolExecutor | None = None

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[list[ObjectInfo]]:
        """Pages of objects, each one request of up to 1,000 keys."""
        request: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": self._folder + prefix,
            "MaxKeys": PAGE_SIZE,
        }
        if start_after:
            request["StartAfter"] = self._folder + start_after
        while True:
            response = self._list_page(request)
            if page := [
                ObjectInfo(item["Key"][len(self._folder) :], item["Size"], item["ETag"].strip('"'))
                for item in response.get("Contents", ())
            ]:
                yield page
            if not response.get("IsTruncated"):
                return
            request["ContinuationToken"] = response["NextContinuationToken"]

    def _list_page(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._repeat(self._client.list_objects_v2, request)
        except NoCredentialsError as error:
            raise no_credentials(self.uri) from error
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            raise self._errors.refused("list", code, error) from error
        except BotoCoreError as error:
            raise self._errors.unreachable(error) from error

    @staticmethod
    def _repeat(
        operation: Callable[..., dict[str, Any]], request: dict[str, Any]
    ) -> dict[str, Any]:
        """One request, repeated while the store is overloaded."""
        deadline = time.monotonic() + RETRY_TIMEOUT_S
        while True:
            try:
                return operation(**request)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status < 500 or time.monotonic() > deadline:
                    raise

    def read(self, name: str, etag: str = "", max_bytes: int | None = None) -> bytes:
        """An object's content; its etag is compared with that of the response."""
        key = self._folder + name
        if key != key.strip("/"):  # obstore would strip it: "scans/" is an object, too
            return self._read_any_key(name, etag, max_bytes)
        try:
            response = obstore.get(self._objects, key)
            found = (response.meta["e_tag"] or "").strip('"')
            self._check_etag(name, etag, found)
            check_size(self.uri_of(name), response.meta["size"], max_bytes)
            return bytes(response.bytes())
        except (FileNotFoundError, BaseError) as error:
            raise self._errors.for_object(self.uri_of(name), str(error), error) from error
        except ValueError:  # obstore has no path for this key: "a//b", "a/../b", a line break
            return self._read_any_key(name, etag, max_bytes)

    def read_range(self, wanted: ByteRange) -> bytes:
        """A part of an object."""
        # by botocore: some servers (rclone) answer 200 instead of 206, which obstore refuses, and
        # ranges are so large that its slower requests do not count
        end = wanted.start + wanted.length - 1
        return self._read_any_key(
            wanted.name, wanted.etag, byte_range=f"bytes={wanted.start}-{end}"
        )

    def _check_etag(self, name: str, listed: str, found: str) -> None:
        if listed and found != listed:
            raise ObjectError("changed", f"{self.uri_of(name)} has changed since it was listed.")

    def _read_any_key(
        self, name: str, etag: str, max_bytes: int | None = None, byte_range: str | None = None
    ) -> bytes:
        request = {"Bucket": self._bucket, "Key": self._folder + name}
        try:
            response = self._repeat(
                self._client.get_object, request | ({"Range": byte_range} if byte_range else {})
            )
            with contextlib.closing(response["Body"]) as body:
                self._check_etag(name, etag, response["ETag"].strip('"'))
                check_size(self.uri_of(name), response["ContentLength"], max_bytes)
                return bytes(body.read())
        except ClientError as error:
            code = error.response["Error"].get("Code")
            if code == "InvalidRange":
                return b""  # the object ends before
            raise self._errors.for_object(self.uri_of(name), f"<Code>{code}", error) from error
        except BotoCoreError as error:
            raise self._errors.unreachable(error) from error

    def read_many(
        self, objects: Sequence[ObjectInfo], max_bytes: int | None = None
    ) -> Iterator[bytes | ObjectError]:
        """Contents in order, `NUM_THREADS` requests in flight."""
        reads = ((info.size, (self.read, info.name, info.etag, max_bytes)) for info in objects)
        return self._read_ahead(reads)

    def read_ranges(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | ObjectError]:
        """Parts in order, `NUM_THREADS` requests in flight."""
        return self._read_ahead((wanted.length, (self.read_range, wanted)) for wanted in ranges)

    def _read_ahead(
        self, reads: Iterable[tuple[int, tuple[Any, ...]]]
    ) -> Iterator[bytes | ObjectError]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(NUM_THREADS, "s3-get")
        ahead = deque[tuple[int, Future[bytes | ObjectError]]]()
        bytes_ahead = 0
        for size, read in reads:
            while ahead and (len(ahead) == MAX_AHEAD or bytes_ahead + size > MAX_BYTES_AHEAD):
                taken, content = ahead.popleft()
                bytes_ahead -= taken
                yield content.result()
            ahead.append((size, self._threads.submit(self._try, *read)))
            bytes_ahead += size
        yield from (content.result() for _, content in ahead)

    def write(self, name: str, data: bytes) -> None:
        """One PUT (a completed multipart upload for a large object): readers never see a part."""
        key = self._folder + name
        if {"", ".", ".."} & set(key.split("/")):
            # obstore would write elsewhere than `read` and `list` look
            raise UsageError(f"Cannot write {self.uri_of(name)}: '//' or a dot as a folder's name.")
        try:
            obstore.put(self._objects, key, data)
        except FileNotFoundError as error:
            raise self._errors.refused("write", "NoSuchBucket", error) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._errors.refused(
                "write", error_code(str(error)) or "AccessDenied", error
            ) from error
        except BaseError as error:
            raise self._errors.unreachable(error) from error

    def delete(self, name: str) -> None:
        """One DELETE."""
        with contextlib.suppress(FileNotFoundError, BaseError):
            obstore.delete(self._objects, self._folder + name)


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
