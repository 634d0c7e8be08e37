"""Findings as text for a terminal."""

import shutil
from collections.abc import Iterator, Sequence
from textwrap import wrap

from mnist_ocr.diagnosis.findings import DRIVER, Level, Line

LEVEL, CHECK = 9, 14
"""Columns of the level and of the check."""

MAX_WIDTH = 120
"""Columns of a line."""

MAX_LINES: dict[Level, int] = {"problem": 5, "warning": 3, "ok": 2}
"""Of one check at one level; a hundred machines may have as many."""

MAX_NAMED = 3
"""Machines that a line names."""


def format_lines(lines: Sequence[Line], nodes: Sequence[str], width: int | None = None) -> str:
    """A table: level, check, where, what, and what to do; the verdict last.

    Args:
        lines: By check.
        nodes: Names of all nodes; none without a cluster.
        width: In columns; None for that of the terminal.
    """
    width = min(width or shutil.get_terminal_size((100, 24)).columns, MAX_WIDTH)
    indent = " " * (LEVEL + CHECK)
    rows: list[str] = []
    for line in lines:
        alike = [other for other in lines if (other.check, other.level) == (line.check, line.level)]
        rank, limit = alike.index(line), MAX_LINES[line.level]
        if rank < limit:
            text = _place(line, nodes) + line.message
            rows += _fill(f"{line.level:<{LEVEL}}{line.check:<{CHECK}}", text, width)
            if line.remedy:
                rows += _fill(indent, f"-> {line.remedy}", width)
        elif rank == limit:
            rows += _fill(indent, f"... and {len(alike) - limit:,} more (in the JSON)", width)
    return "\n".join([*rows, "", _conclude(lines, nodes)])


def _fill(start: str, text: str, width: int) -> list[str]:
    return wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _place(line: Line, nodes: Sequence[str]) -> str:
    """`10.0.0.3: `; nothing without a cluster, and where the driver speaks of the cluster."""
    if not nodes or (line.check == "cluster" and line.machines == [DRIVER]):
        return ""
    return f"{_name(line.machines, nodes)}: "


def _name(machines: Sequence[str], nodes: Sequence[str]) -> str:
    on_driver = [DRIVER] * (DRIVER in machines)
    others = [name for name in machines if name != DRIVER]
    if len(others) == len(nodes) > 1:
        return " and ".join([*on_driver, f"all {len(nodes):,} nodes"])
    named = [*on_driver, *others[:MAX_NAMED]]
    rest = [f"{len(others) - MAX_NAMED:,} more"] if len(others) > MAX_NAMED else []
    return ", ".join(named + rest)


def _conclude(lines: Sequence[Line], nodes: Sequence[str]) -> str:
    counts = list(_count(lines))
    where = f"the driver and {len(nodes):,} node{'s' * (len(nodes) != 1)}"
    return f"{', '.join(counts) or 'no problem'} on {where if nodes else 'this machine'}"


def _count(lines: Sequence[Line]) -> Iterator[str]:
    for level in ("problem", "warning"):
        if number := sum(line.level == level for line in lines):
            yield f"{number:,} {level}{'s' * (number != 1)}"
