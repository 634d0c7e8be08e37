"""Objects on S3 and its relatives: listings and parts by botocore, whole objects by obstore.

botocore finds credentials, region and endpoint as every AWS tool does (`AWS_PROFILE`,
`AWS_ENDPOINT_URL`, instance roles, ...) and returns every key as it is; obstore carries the many
small GETs at 13 times the rate of `s3fs.cat`, but cannot express keys like `a//b` (those few go
through botocore). All go through `S3Requests`, which paces, repeats and counts.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import obstore
from botocore.exceptions import ClientError, IncompleteReadError
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    NotSupportedError,
    PreconditionError,
)

from mnist_ocr.ahead import call_ahead, cut_into_blocks
from mnist_ocr.answers import changed, check_size, read_whole
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.pacing import MAX_IN_FLIGHT
from mnist_ocr.s3_clients import S3Clients
from mnist_ocr.s3_errors import ErrorSorter, error_code, is_unknown_to_server
from mnist_ocr.s3_listing import read_page
from mnist_ocr.s3_requests import RETRY_TIMEOUT_S, S3Requests
from mnist_ocr.storage import (
    PAGE_SIZE,
    UNKNOWN_SIZE,
    ByteRange,
    ObjectInfo,
    Read,
    Store,
)

MAX_LANES = 32
"""Pages of a listing in flight: S3 takes 0.1 to 0.3 s for one, the client 4 ms."""

REQUESTS_PER_TASK = 4
"""A thread sends these one after the other, since handing over takes time, too; a shard of 1,024
objects still has 256 tasks."""

LIST_RETRY_TIMEOUT_S = 4
"""Seconds for which a listing is repeated until its first answer: its URI may be wrong."""

MULTIPART_BYTES = 16 * 1024**2
"""Objects above this are written in parts: one that fails is repeated alone."""


class S3Store(Store):
    """The objects under `s3://bucket/prefix/`.

    Args:
        uri: Of the folder.
        anonymous: Sign no request: the bucket is public.

    Raises:
        UsageError: no bucket in the URI, no such profile, or no credentials.
    """

    max_lanes = MAX_LANES

    def __init__(self, uri: str, *, anonymous: bool = False) -> None:
        super().__init__(uri)
        self._bucket, _, folder = uri.removeprefix("s3://").partition("/")
        self._folder = f"{folder}/" if folder else ""
        if not self._bucket:
            raise UsageError(f"No bucket in {uri!r}. Write s3://bucket/prefix.")
        self._requests = S3Requests(uri, self._bucket, self._meter, anonymous=anonymous)
        self._errors = ErrorSorter(uri, self._bucket, self._requests.clients.endpoint)
        self._has_been_listed = False
        self._threads: ThreadPoolExecutor | None = None

    def list(
        self, prefix: str = "", start_after: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[list[ObjectInfo]]:
        """Pages of objects, each one request of up to 1,000 keys."""
        request: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": self._folder + prefix,
            "MaxKeys": page_size,
        }
        if start_after:
            request["StartAfter"] = self._folder + start_after
        while True:
            response = self._list_page(request)
            if page := read_page(response, skip=len(self._folder)):
                yield page
            if not response.get("IsTruncated"):
                return
            request["ContinuationToken"] = response["NextContinuationToken"]

    def _list_page(self, request: dict[str, Any]) -> dict[str, Any]:
        response: dict[str, Any] = self._requests.send(
            lambda clients: clients.botocore.list_objects_v2(**request),
            lambda error: self._errors.for_folder("list", error),
            RETRY_TIMEOUT_S if self._has_been_listed else LIST_RETRY_TIMEOUT_S,
        )
        self._has_been_listed = True
        return response

    def read(
        self, name: str, etag: str = "", max_bytes: int | None = None, size: int = UNKNOWN_SIZE
    ) -> bytes:
        """An object's content; its etag is compared with that of the response."""
        return read_whole(partial(self._read, name, etag, max_bytes), self.uri_of(name), etag, size)

    def _read(self, name: str, etag: str, max_bytes: int | None) -> bytes:
        key = self._folder + name
        if key != key.strip("/"):  # obstore would strip it: "scans/" is an object, too
            return self._read_any_key(name, etag, max_bytes)

        def send(clients: S3Clients) -> bytes:
            response = obstore.get(clients.obstore, key)
            self._check_etag(name, etag, response.meta["e_tag"] or "")
            check_size(self.uri_of(name), response.meta["size"], max_bytes)
            return bytes(response.bytes())

        try:
            return self._requests.send(send, self._explain(name))
        except UsageError:
            raise
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

    def _explain(self, name: str) -> Callable[[Exception], Exception]:
        return partial(self._errors.for_object, self.uri_of(name))

    def _check_etag(self, name: str, listed: str, found: str) -> None:
        if listed and found.strip('"') != listed:
            raise changed(self.uri_of(name))

    def _read_any_key(
        self, name: str, etag: str, max_bytes: int | None = None, byte_range: str | None = None
    ) -> bytes:
        request = {"Bucket": self._bucket, "Key": self._folder + name}
        if byte_range:
            request["Range"] = byte_range

        def send(clients: S3Clients) -> bytes:
            try:
                response = clients.botocore.get_object(**request)
            except ClientError as error:
                if error_code(error) == "InvalidRange":
                    return b""  # the object ends before
                raise
            with contextlib.closing(response["Body"]) as body:
                self._check_etag(name, etag, response["ETag"])
                check_size(self.uri_of(name), response["ContentLength"], max_bytes)
                data = bytes(body.read())
            check_range(data, response.get("ContentRange", ""))
            return data

        return self._requests.send(send, self._explain(name))

    def _read_ahead(self, reads: Iterable[Read]) -> Iterator[bytes | ObjectError]:
        """In order, as many requests in flight as pay."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_IN_FLIGHT, "s3-get")
        tasks = cut_into_blocks(reads, REQUESTS_PER_TASK)
        contents = call_ahead(self._threads, tasks, lambda: self._requests.max_in_flight)
        return chain.from_iterable(contents)

    def write(self, name: str, data: bytes) -> None:
        """One PUT (a completed multipart upload for a large object): readers never see a part."""
        key = self._folder + name
        if {"", ".", ".."} & set(key.split("/")):
            # obstore would write elsewhere than `read` and `list` look
            raise UsageError(f"Cannot write {self.uri_of(name)}: '//' or a dot as a folder's name.")
        self._requests.send(
            lambda clients: obstore.put(
                clients.obstore, key, data, use_multipart=len(data) > MULTIPART_BYTES
            ),
            lambda error: self._errors.for_folder("write", error),
        )

    def create(self, name: str, data: bytes) -> None:
        """A conditional PUT, or a plain one where the server knows none."""
        key = self._folder + name

        def send(clients: S3Clients) -> bool:
            """Whether it was written."""
            try:
                obstore.put(clients.obstore, key, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False  # maybe by a request whose answer was lost
            except (NotSupportedError, GenericError) as error:
                if not isinstance(error, NotSupportedError) and not is_unknown_to_server(error):
                    raise
                obstore.put(clients.obstore, key, data, use_multipart=False)
            return True

        if not self._requests.send(send, lambda error: self._errors.for_folder("write", error)):
            self._check_same(name, data)

    def delete(self, name: str) -> None:
        """One DELETE, repeated while the store fails."""
        with contextlib.suppress(FileNotFoundError, UsageError, ConnectionError):
            self._requests.send(
                lambda clients: obstore.delete(clients.obstore, self._folder + name),
                lambda error: self._errors.for_folder("delete", error),
            )


def check_range(data: bytes, content_range: str) -> None:
    """Refuse an answer that does not have the bytes that it says: `bytes 0-99/1234`, or ""."""
    if found := re.fullmatch(r"bytes (\d+)-(\d+)/.*", content_range):
        expected = int(found[2]) + 1 - int(found[1])
        if len(data) != expected:
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
