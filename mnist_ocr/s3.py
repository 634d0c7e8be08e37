"""Objects on S3 and its relatives: listings by botocore, contents by obstore.

botocore finds credentials, region and endpoint as every AWS tool does (`AWS_PROFILE`,
`AWS_ENDPOINT_URL`, instance roles, ...) and returns every key as it is; obstore carries the many
small GETs at 13 times the rate of `s3fs.cat`, but cannot express keys like `a//b` (those few go
through botocore).
"""

import contextlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import botocore.session
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as ObstoreS3

from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.storage import PAGE_SIZE, ObjectInfo, Store

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

CREDENTIAL_CODES = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
"""S3's error codes that condemn the credentials rather than one object."""

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
                    retries={"mode": "standard", "total_max_attempts": 3},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"Cannot open {uri}: {error} Check the AWS_* settings.") from error
        if credentials is None:
            raise _no_credentials(uri)
        endpoint = self._client.meta.endpoint_url
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
        """One request, repeated while the store is overloaded."""
        deadline = time.monotonic() + RETRY_TIMEOUT_S
        while True:
            try:
                response: dict[str, Any] = self._client.list_objects_v2(**request)
                return response
            except NoCredentialsError as error:
                raise _no_credentials(self.uri) from error
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status < 500 or time.monotonic() > deadline:
                    code = error.response["Error"].get("Code", "")
                    raise self._refused("list", code, error) from error
            except (HTTPClientError, BotoCoreError) as error:
                raise self._unreachable(error) from error

    def read(self, name: str, etag: str = "") -> bytes:
        """An object's content; its etag is compared with that of the response."""
        key = self._folder + name
        if key != key.strip("/"):  # obstore would strip it: "scans/" is an object, too
            return self._read_any_key(name, etag)
        try:
            response = obstore.get(self._objects, key)
            found = (response.meta["e_tag"] or "").strip('"')
            self._check_etag(name, etag, found)
            return bytes(response.bytes())
        except (FileNotFoundError, BaseError) as error:
            self._raise_for_object(name, str(error), error)
        except ValueError:  # obstore has no path for this key: "a//b", "a/../b", a line break
            return self._read_any_key(name, etag)

    def _check_etag(self, name: str, listed: str, found: str) -> None:
        if listed and found != listed:
            raise ObjectError("changed", f"{self.uri_of(name)} has changed since it was listed.")

    def _read_any_key(self, name: str, etag: str) -> bytes:
        try:
            response = self._client.get_object(Bucket=self._bucket, Key=self._folder + name)
            self._check_etag(name, etag, response["ETag"].strip('"'))
            return bytes(response["Body"].read())
        except ClientError as error:
            self._raise_for_object(name, f"<Code>{error.response['Error'].get('Code')}", error)
        except BotoCoreError as error:
            raise self._unreachable(error) from error

    def _raise_for_object(self, name: str, message: str, error: Exception) -> NoReturn:
        """Sort a failed GET: the credentials', the object's, or the store's fault."""
        code = _code(message)
        if code in CREDENTIAL_CODES or code == "NoSuchBucket":
            raise self._refused("read", code, error) from error
        if code in {"NoSuchKey", "404"} or (not code and isinstance(error, FileNotFoundError)):
            raise ObjectError("missing", f"There is no {self.uri_of(name)} (any more).") from error
        if code in {"AccessDenied", "403", "401"} or (
            not code and isinstance(error, (PermissionDeniedError, UnauthenticatedError))
        ):
            raise ObjectError(
                "forbidden", f"No permission to read {self.uri_of(name)} (s3:GetObject)."
            ) from error
        if code == "SlowDown" or re.search(r"status code: (429|503)|429 Too Many|503 S", message):
            raise ObjectError(
                "throttled", f"The store asked to slow down, also on retries: {self.uri_of(name)}."
            ) from error
        if re.search(r"status code: 4\d\d", message) or (code and isinstance(error, ClientError)):
            raise ObjectError(
                "unreadable", f"The store refuses {self.uri_of(name)}: {code or message[:100]}."
            ) from error
        raise self._unreachable(error) from error

    def read_many(self, objects: Sequence[ObjectInfo]) -> Iterator[bytes | ObjectError]:
        """Contents in order, `NUM_THREADS` requests in flight."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(NUM_THREADS, "s3-get")
        ahead = deque[tuple[int, Future[bytes | ObjectError]]]()
        bytes_ahead = 0
        for info in objects:
            while ahead and (len(ahead) == MAX_AHEAD or bytes_ahead + info.size > MAX_BYTES_AHEAD):
                size, content = ahead.popleft()
                bytes_ahead -= size
                yield content.result()
            ahead.append((info.size, self._threads.submit(self._read_or_error, info)))
            bytes_ahead += info.size
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
            raise self._refused("write", "NoSuchBucket", error) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._refused("write", _code(str(error)) or "AccessDenied", error) from error
        except BaseError as error:
            raise self._unreachable(error) from error

    def delete(self, name: str) -> None:
        """One DELETE."""
        with contextlib.suppress(FileNotFoundError, BaseError):
            obstore.delete(self._objects, self._folder + name)

    def _refused(self, verb: str, code: str, error: Exception) -> Exception:
        if code == "NoSuchBucket":
            return UsageError(f"There is no bucket {self._bucket} ({self.uri}). Check the name.")
        if code in CREDENTIAL_CODES:
            return UsageError(
                f"The store rejects these credentials for {self.uri} ({code}). "
                "Check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if code in {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}:
            right = {"list": "s3:ListBucket", "read": "s3:GetObject", "write": "s3:PutObject"}[verb]
            return UsageError(
                f"These credentials may not {verb} {self.uri} ({code}). Give them {right}."
            )
        return self._unreachable(error)

    def _unreachable(self, error: Exception) -> StorageUnreachableError:
        reason = str(error).partition("\n")[0].removesuffix(".")
        return StorageUnreachableError(
            f"No usable answer for {self.uri} from {self._client.meta.endpoint_url}: {reason}. "
            "Check AWS_ENDPOINT_URL, the region and the network, then run the same command again."
        )


def _no_credentials(uri: str) -> UsageError:
    return UsageError(
        f"No AWS credentials for {uri}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or run where an instance role provides them."
    )


def _code(message: str) -> str:
    """The `<Code>` of the XML error document that obstore quotes in its message, or ""."""
    found = re.search(r"<Code>(\w+)", message)
    return found.group(1) if found else ""


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
