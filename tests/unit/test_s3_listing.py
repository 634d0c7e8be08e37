"""Pages of S3's listings: the keys that botocore finds, in a fraction of the time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError

from mnist_ocr.s3_listing import read_page, take_out_contents
from mnist_ocr.storage import ObjectInfo

KEYS = [
    "s/",
    "s/a b",
    "s/a+b",
    "s/a%20b",
    "s/a//b",
    "s/a\nb",
    "s/&<é>数\U0001f600",
    "s/" + "x" * 1022,
]


def build_body(keys: Sequence[str], *, is_quoted: bool) -> bytes:
    contents = "".join(
        f"<Contents><Key>{quote_plus(key, '/') if is_quoted else escape(key)}</Key>"
        f"<LastModified>2026-11-21T12:34:56.000Z</LastModified><ETag>&quot;e{i}&quot;</ETag>"
        f"<Size>{i}</Size><Owner><ID>Key</ID></Owner></Contents>"
        for i, key in enumerate(keys)
    )
    encoding = "<EncodingType>url</EncodingType>" if is_quoted else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/'
        f'doc/2006-03-01/"><Name>b</Name>{encoding}<IsTruncated>true</IsTruncated>'
        f"<NextContinuationToken>t</NextContinuationToken>{contents}</ListBucketResult>"
    ).encode()


@dataclass
class Answers:
    """botocore clients, one of which takes the contents out, and what they are to be answered."""

    body: bytes = b""
    status: int = 200

    def __post_init__(self) -> None:
        self.clients = [
            botocore.session.Session().create_client(
                "s3",
                region_name="us-east-1",
                aws_access_key_id="a",
                aws_secret_access_key="b",
                config=Config(retries={"total_max_attempts": 1}),
            )
            for _ in range(2)
        ]
        for client in self.clients:
            client.meta.events.register("before-send.s3.ListObjectsV2", self._answer)
        take_out_contents(self.clients[1])

    def _answer(self, request: Any, **_: object) -> AWSResponse:
        return AWSResponse(request.url, self.status, {}, self)

    def stream(self, *_: object, **__: object) -> list[bytes]:
        """What botocore reads of an answer."""
        return [self.body]

    def list_slowly(self) -> dict[str, Any]:
        """By botocore alone."""
        return self.clients[0].list_objects_v2(Bucket="b")

    def list_fast(self) -> dict[str, Any]:
        """By the other client."""
        return self.clients[1].list_objects_v2(Bucket="b")


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


@pytest.mark.parametrize("keys", [KEYS, KEYS[:1], []], ids=["many", "one", "none"])
@pytest.mark.parametrize("is_quoted", [True, False])
def test_page_is_what_botocore_makes_of_it(
    is_quoted: bool, keys: list[str], answers: Answers
) -> None:
    """Keys to the letter, whether the server quotes them or not; the rest of the answer, too."""
    answers.body, answers.status = build_body(keys, is_quoted=is_quoted), 200
    fast, slow = answers.list_fast(), answers.list_slowly()
    assert ("Contents" in fast) == (not keys and "Contents" in slow)
    expected = [ObjectInfo(key[2:], i, f"e{i}") for i, key in enumerate(keys)]
    assert read_page(fast, skip=2) == read_page(slow, skip=2) == expected
    for name in ("IsTruncated", "NextContinuationToken", "Name"):
        assert fast[name] == slow[name]


def test_page_of_another_spelling_is_left_to_botocore(answers: Answers) -> None:
    """Tags that are not found as they are spelt are not lost."""
    body = build_body(KEYS, is_quoted=True)
    answers.body, answers.status = body.replace(b"<Contents>", b"<Contents >"), 200
    assert [info.name for info in read_page(answers.list_fast(), skip=0)] == KEYS


def test_broken_page_is_an_error(answers: Answers) -> None:
    """An answer that was cut off is a failed request, wherever it ends; so is an error's page."""
    body = build_body(KEYS, is_quoted=True)
    answers.status = 200
    for end in range(1, len(body) - 1, 97):
        answers.body = body[:end]
        with pytest.raises(ClientError):
            answers.list_fast()
    answers.body, answers.status = b"<Error><Code>SlowDown</Code></Error>", 503
    with pytest.raises(ClientError, match="SlowDown"):
        answers.list_fast()
