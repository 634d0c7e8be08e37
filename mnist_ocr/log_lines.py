"""Log lines: text for people, or with `MNIST_OCR_LOG_FORMAT=json` an object a line for programs.

    {"time": "2026-11-22T04:00:00.123Z", "level": "info", "message": "shard done", "shard": 7, ...}

What `bind` was told is in each line of the process. Ray's own JSON (`ray.LoggingConfig`) does not
serve: it logs all packages at INFO, and nothing in it takes secrets out of URIs.
"""

import json
import logging
import os
import sys
import time
from typing import Any, Literal, get_args

from mnist_ocr.errors import UsageError
from mnist_ocr.redaction import RedactingFormatter, redact

VARIABLE = "MNIST_OCR_LOG_FORMAT"

LogFormat = Literal["text", "json"]

_bound: dict[str, Any] = {}


def wanted_format() -> LogFormat:
    """What the environment asks for; text if nothing.

    Raises:
        UsageError: it asks for something else.
    """
    wanted = os.environ.get(VARIABLE) or "text"
    for known in get_args(LogFormat):
        if wanted == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"{VARIABLE} is {wanted!r}. Set it to text or json.")


def configure_logging(log_format: LogFormat) -> None:
    """Log to stderr: of this package from INFO on, of others warnings.

    An application's own handlers stay, and are the only ones then.
    """
    for earlier in list(logging.root.handlers):  # a worker's, of another command's format
        if isinstance(earlier.formatter, (JsonFormatter, RedactingFormatter)):
            logging.root.removeHandler(earlier)
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("mnist_ocr").setLevel(logging.INFO)


def bind(**fields: Any) -> None:
    """Put these into each JSON line of this process from now on; None takes a field out."""
    global _bound  # replaced, not changed: other threads may be writing a line
    _bound = {name: value for name, value in {**_bound, **fields}.items() if value is not None}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: its message, what is bound, and its `extra={"fields": {...}}`.

    Texts are redacted one by one, before quotes and line ends are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_bound,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(
            {
                key: redact(value) if isinstance(value, str) else value
                for key, value in fields.items()
            },
            default=str,
        )
