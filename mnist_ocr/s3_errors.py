"""What a failed request to S3 means: an object's row, a person's mistake, or no answer."""

import re
from dataclasses import dataclass

from botocore.exceptions import ClientError
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError

CREDENTIAL_CODES = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
"""S3's error codes that condemn the credentials rather than one object."""


@dataclass(frozen=True)
class ErrorSorter:
    """Turns the errors of botocore and obstore into those that a person sees."""

    uri: str
    bucket: str
    endpoint: str

    def for_object(self, uri: str, message: str, error: Exception) -> Exception:
        """A failed GET: the credentials', the object's, or the store's fault."""
        code = error_code(message)
        if code in CREDENTIAL_CODES or code == "NoSuchBucket":
            return self.refused("read", code, error)
        if code in {"NoSuchKey", "404"} or (not code and isinstance(error, FileNotFoundError)):
            return ObjectError("missing", f"There is no {uri} (any more).")
        if code in {"AccessDenied", "403", "401"} or (
            not code and isinstance(error, (PermissionDeniedError, UnauthenticatedError))
        ):
            return ObjectError("forbidden", f"No permission to read {uri} (s3:GetObject).")
        if code == "SlowDown" or re.search(r"status code: (429|503)|429 Too Many|503 S", message):
            return ObjectError(
                "throttled", f"The store asked to slow down, also on retries: {uri}."
            )
        if re.search(r"status code: 4\d\d", message) or (code and isinstance(error, ClientError)):
            return ObjectError("unreadable", f"The store refuses {uri}: {code or message[:100]}.")
        return self.unreachable(error)

    def refused(self, verb: str, code: str, error: Exception) -> Exception:
        """A request that the store does not grant."""
        if code == "NoSuchBucket":
            return UsageError(f"There is no bucket {self.bucket} ({self.uri}). Check the name.")
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
        return self.unreachable(error)

    def unreachable(self, error: Exception) -> StorageUnreachableError:
        """A store that does not answer."""
        reason = str(error).partition("\n")[0].removesuffix(".")
        return StorageUnreachableError(
            f"No usable answer for {self.uri} from {self.endpoint}: {reason}. "
            "Check AWS_ENDPOINT_URL, the region and the network, then run the same command again."
        )


def no_credentials(uri: str) -> UsageError:
    """Nothing to sign requests with."""
    return UsageError(
        f"No AWS credentials for {uri}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or run where an instance role provides them."
    )


def error_code(message: str) -> str:
    """The `<Code>` of the XML error document that obstore quotes in its message, or ""."""
    found = re.search(r"<Code>(\w+)", message)
    return found.group(1) if found else ""
