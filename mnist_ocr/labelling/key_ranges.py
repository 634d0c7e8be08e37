"""Where a range of names can be split in two, known only the first name behind any other."""

import sys
from bisect import bisect_left
from collections.abc import Callable

MAX_PROBE_BYTES = 512
"""Longer names are not probed for: a key has at most 1,024 bytes, its folder included."""

_LAST = chr(sys.maxunicode)
"""Behind every other character, in the order of UTF-8 as in that of code points."""


def find_split(find_next: Callable[[str], str], prefix: str, after: str, until: str) -> str:
    """A name that exists between two others, about where the names between them halve.

    S3 tells nothing but the first name behind any other, so this looks for the first character in
    which the names that are left differ from `after`, and then, by halves, for one that some are
    beyond. It takes up to 11 probes for the place, the logarithm of a name's length, and up to 8
    for the character (21 where that of `after` is not ASCII).

    Args:
        find_next: The first name behind any string, or ""; one request.
        prefix: What all names begin with.
        after: A name; what is found lies behind it.
        until: What is found lies before it; "" for the end.

    Returns:
        The name, or "" if none was found.
    """

    def probe(name: str) -> str:
        if (until and name >= until) or len(name.encode()) > MAX_PROBE_BYTES:
            return ""
        found = find_next(name)
        return found if not until or found < until else ""

    if after == until:
        return ""
    places = range(len(prefix), len(after))
    num_same = bisect_left(places, True, key=lambda i: bool(probe(after[: i + 1] + _LAST)))
    place = len(prefix) + num_same
    first = ord(after[place] if place < len(after) else " ")  # a server may choke on what is less
    middle = 0x7F if first < 0x7F else (first + sys.maxunicode) // 2  # most names are ASCII
    while True:
        if 0xD800 <= middle < 0xE000:
            middle = 0xD7FF  # surrogates are no characters
        found = probe(after[:place] + chr(middle) + _LAST)
        if found or middle <= first:
            return found
        middle = (first + middle) // 2
