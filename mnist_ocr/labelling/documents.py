"""The JSON documents of an output: `_job.json`, `_SUCCESS` and `_manifest/complete.json`."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from mnist_ocr.errors import DamagedOutputError, ObjectError, UsageError
from mnist_ocr.storage import Store

T = TypeVar("T")


def read_document(output: Store, name: str, decode: Callable[[Any], T], remedy: str) -> T | None:
    """What `decode` makes of a document, or None where there is no such file.

    Raises:
        DamagedOutputError: it is no JSON, or `decode` raises ValueError, TypeError or KeyError;
            with the remedy.
        ObjectError: it cannot be read.
    """
    try:
        return output.read_as(name, lambda data: decode(json.loads(data)))
    except ObjectError as error:
        if error.status != "missing":
            raise
        return None
    except UsageError:  # of the credentials; a ValueError, too
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedOutputError(f"{output.uri_of(name)} is damaged ({error}). {remedy}") from error
