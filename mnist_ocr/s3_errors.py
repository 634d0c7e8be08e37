"""What a failed request to S3 means: an object's row, a person's mistake, or no answer."""

import re
from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError

FAILURES = (FileNotFoundError, BaseError, ClientError, BotoCoreError)
"""What obstore and botocore raise for a request that the store or the network failed."""

PASSING = (GenericError, HTTPClientError, IncompleteReadError, CredentialRetrievalError)
"""Those of them that may pass, where there was no answer."""

REGION_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraint"}
"""S3's error codes that a wrong region, among other things, may bring."""

CREDENTIAL_CODES = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
"""S3's error codes that condemn the credentials rather than one object."""

FORBIDDEN_CODES = {"AccessDenied", "AllAccessDisabled", "Forbidden", "401", "403"}


@dataclass(frozen=True)
class ErrorSorter:
    """Turns the errors of botocore and obstore into those that a person sees."""

    uri: str
    bucket: str
    endpoint: str

    def for_object(self, uri: str, error: Exception) -> Exception:
        """A failed GET: the credentials', the object's, or the store's fault."""
        code, message = error_code(error), str(error)
        if code in CREDENTIAL_CODES or code == "NoSuchBucket":
            return self.for_folder("read", error)
        if is_throttled(error):
            return ObjectError(
                "throttled", f"The store asked to slow down, also on retries: {uri}."
            )
        if code in {"NoSuchKey", "404"} or (not code and isinstance(error, FileNotFoundError)):
            return ObjectError("missing", f"There is no {uri} (any more).")
        if code in FORBIDDEN_CODES or (
            not code and isinstance(error, (PermissionDeniedError, UnauthenticatedError))
        ):
            return ObjectError("forbidden", f"No permission to read {uri} (s3:GetObject).")
        if is_outage(error):
            return self._unreachable(error)
        if code or re.search(r"status code: 4\d\d", message):
            return ObjectError("unreadable", f"The store refuses {uri}: {code or message[:100]}.")
        return self._unreachable(error)

    def for_folder(self, verb: str, error: Exception) -> Exception:
        """A failed LIST, PUT or GET of which every other one would fail, too."""
        code = error_code(error)
        if isinstance(error, NoCredentialsError):
            return no_credentials(self.uri)
        if code == "NoSuchBucket" or isinstance(error, FileNotFoundError):
            return UsageError(f"There is no bucket {self.bucket} ({self.uri}). Check the name.")
        if code in CREDENTIAL_CODES:
            return UsageError(
                f"The store rejects these credentials for {self.uri} ({code}). "
                "Check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if code in FORBIDDEN_CODES or isinstance(
            error, (PermissionDeniedError, UnauthenticatedError)
        ):
            rights = {"list": "List", "read": "Get", "write": "Put", "delete": "Delete"}
            right = f"s3:{rights[verb]}{'Bucket' if verb == 'list' else 'Object'}"
            return UsageError(
                f"These credentials may not {verb} {self.uri} ({code or 'forbidden'}). "
                f"Give them {right}."
            )
        return self._unreachable(error)

    def _unreachable(self, error: Exception) -> StorageUnreachableError:
        reason = str(error).partition("\n")[0].removesuffix(".")
        return StorageUnreachableError(
            f"No usable answer for {self.uri} from {self.endpoint}: {reason}. "
            "Check AWS_ENDPOINT_URL, the region and the network, then run the same command again."
        )


def no_credentials(uri: str) -> UsageError:
    """Nothing to sign requests with."""
    return UsageError(
        f"No AWS credentials for {uri}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or run where an instance role provides them; a public bucket is "
        "read with --anonymous."
    )


def error_code(error: Exception) -> str:
    """S3's own code for an error, or ""; obstore quotes the XML document that holds it."""
    if isinstance(error, ClientError):
        return str(error.response["Error"].get("Code", ""))
    found = re.search(r"<Code>(\w+)</Code>", str(error))  # a proxy may have cut the document
    return found.group(1) if found else ""


def is_throttled(error: Exception) -> bool:
    """Whether the store asks to slow down."""
    return _status(error) in {429, 503} or error_code(error) == "SlowDown"


def is_outage(error: Exception) -> bool:
    """Whether the fault is the store's or the network's, and may pass."""
    if status := _status(error):
        return status >= 500
    return isinstance(error, PASSING) and not is_region_wrong(error)


def is_unknown_to_server(error: Exception) -> bool:
    """Whether the server does not know what is asked for: not every one has all that S3 has."""
    return _status(error) == 501 or error_code(error) == "NotImplemented"


def is_region_wrong(error: Exception) -> bool:
    """Whether the bucket may lie in another region than the one asked."""
    return error_code(error) in REGION_CODES or "incorrectly configured region" in str(error)


def _status(error: Exception) -> int:
    """HTTP's, or 0 where there was no answer."""
    if isinstance(error, ClientError):
        return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found.group(1)) if found else 0
