"""Files of an output that are written once, and its JSON documents."""

import json
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mnist_ocr.errors import DamagedOutputError, ObjectError, UsageError
from mnist_ocr.storage import Store

T = TypeVar("T")


def read_document(output: Store, name: str, decode: Callable[[Any], T], remedy: str) -> T | None:
    """What `decode` makes of a document, or None where there is no such file.

    Raises:
        DamagedOutputError: it is no JSON, or `decode` raises ValueError, TypeError, KeyError or
            ArithmeticError; with the remedy.
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
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise DamagedOutputError(f"{output.uri_of(name)} is damaged ({error}). {remedy}") from error


def check_types(document: Mapping[str, Any], kind: type) -> None:
    """Make sure that each value is of its field's type; the items of containers are not looked at.

    Raises:
        ValueError: one is not.
    """
    types = get_type_hints(kind)
    for name in document.keys() & types.keys():
        options = get_args(types[name]) if isinstance(types[name], UnionType) else (types[name],)
        if type(document[name]) not in {get_origin(option) or option for option in options}:
            raise ValueError(f"{name} is {document[name]!r}")


def create(output: Store, name: str, data: bytes) -> None:
    """Write what is never written again.

    Raises:
        UsageError: another command has written it meanwhile.
    """
    try:
        output.create(name, data)
    except FileExistsError as error:
        raise UsageError(
            f"{output.uri_of(name)} was written by another command meanwhile. Wait for that one, "
            "then run the same command again."
        ) from error
