"""Looks at several topics at once; one that fails or hangs does not hold up the others."""

import time
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any, NamedTuple

from mnist_ocr.errors import ObjectError, UsageError


class Trouble(NamedTuple):
    """What came of a look that failed."""

    message: str
    remedy: str


def look_at_all(looks: Mapping[str, Callable[[], object]], timeout_s: float) -> dict[str, Any]:
    """What each look returns, or the `Trouble` that it had, by topic.

    A look that hangs, in a dead network file system for example, is left behind in its thread.
    """
    found: dict[str, Any] = {}

    def look_at(topic: str, look: Callable[[], object]) -> None:
        try:
            found[topic] = look()
        except Exception as error:
            found[topic] = explain(error)

    threads = [Thread(target=look_at, args=item, daemon=True) for item in looks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    late = Trouble(
        f"no answer within {timeout_s:g} s",
        "Look whether a network file system hangs, or a firewall drops the store's packets.",
    )
    return {topic: found.get(topic, late) for topic in looks}


def explain(error: Exception) -> Trouble:
    """An error that a person may see, as what is wrong and what to do."""
    text = str(error).removesuffix(".")
    if not isinstance(error, (UsageError, ConnectionError, ObjectError)):
        return Trouble(f"{type(error).__name__}: {text}", "Mend that, or report it as a bug.")
    # their last sentence is the remedy
    wrong, _, remedy = text.rpartition(". ")
    if not wrong:
        return Trouble(text, "Check the address, and the rights of the credentials used there.")
    return Trouble(wrong, f"{remedy}.")
