"""Secrets in URIs: passwords, tokens, signatures. What is shown or stored goes through `redact`.

    https://user:password@host/a.png            ->  https://host/a.png
    https://host/a.png?id=7&X-Amz-Signature=ab  ->  https://host/a.png?id=7&X-Amz-Signature=REDACTED

What is left still names the object. A secret under a name that nobody can know stays.
"""

import logging
import re
from typing import Final

REDACTED: Final = "REDACTED"
"""In the place of a secret value."""

_USER_INFO: Final = re.compile(
    r"""(?P<protocol>\b[a-z][a-z0-9+.-]{0,30}://)
    (?: [^\s/?#]*@ | [^\s/?#@:\['"]*:(?!\d+[/?#])[^\s'"<>]{0,300}@ )  # passwords may have slashes
    """,
    re.I | re.X,
)

_PUBLIC_USER_INFO: Final = re.compile(
    r"(?:github|git)://|s3a?://arn:|(?!https?://)[^:]*://[^:@]*@", re.I
)
"""What stands there without being secret: github's organisation and repository, the container in
`abfs://container@account`, the user of `sftp://`; an access point of S3 has colons in its name."""

_OBJECT_STORE: Final = re.compile(r"(?:s3a?|gs|gcs|abfss?|az|adl|oss|hf)://", re.I)
"""Whose URIs have no parameters: `?` and `&` are parts of names there."""

_SECRET_PARAMETER: Final = re.compile(
    r"""(?P<name>(?:[?&;#\[\s]|%5B|^)(?:
        x-(?:amz|goog)-[\w-]+               # with the date, so that a new signature is the same URI
        | [\w.-]{0,40}(?:signature|token|secret|passw(?:or)?d|credential)[\w.-]{0,40}
        | [\w.-]{0,40}(?:api|access)[_-]?key[\w.-]{0,40}
        | sig | pwd | auth | authorization | jwt | hmac | policy | expires | key-pair-id
        | googleaccessid
    )(?:(?:\[|%5B)\w{0,40})?(?:\]|%5D)?=)[^\s&;#'"<>]*(?<![.,])              # which end a sentence
    | (?P<header>(?:x-amz-security-token|authorization):\s*)[^\r\n<]*
    """,
    re.I | re.X,
)
"""AWS (versions 2 and 4, CloudFront), Google, Azure's `sig`, and what others call theirs."""


def redact(text: str) -> str:
    """A text, such as a URI or an error that quotes some, without the secrets of its URIs."""
    if "://" in text:
        text = _USER_INFO.sub(_keep_public, text)
    if "=" in text or ":" in text:
        text = _SECRET_PARAMETER.sub(_hide_value, text)
    return text


def redact_uri(uri: str) -> str:
    """A URI without its secrets; still the same one where it has none."""
    return _USER_INFO.sub(_keep_public, uri) if _OBJECT_STORE.match(uri) else redact(uri)


def _keep_public(match: re.Match[str]) -> str:
    return match[0] if _PUBLIC_USER_INFO.match(match[0]) else match["protocol"]


def _hide_value(match: re.Match[str]) -> str:
    return f"{match['name'] or match['header']}{REDACTED}"


class RedactingFormatter(logging.Formatter):
    """Other packages' warnings and tracebacks quote URIs, too."""

    def format(self, record: logging.LogRecord) -> str:
        """A line of a log."""
        return redact(super().format(record))
