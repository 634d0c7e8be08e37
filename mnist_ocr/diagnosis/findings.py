"""What a check found, on which machines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mnist_ocr.redaction import redact

Level = Literal["ok", "warning", "problem"]

DRIVER = "driver"
"""The machine that the command runs on."""


class Finding(NamedTuple):
    """What a check found on one machine."""

    check: str
    level: Level
    message: str
    """What there is, or what is wrong, with the value."""
    remedy: str = ""
    """What to do about it; "" where all is well."""


@dataclass(frozen=True)
class Line:
    """The same finding on one machine or more."""

    check: str
    level: Level
    machines: list[str]
    message: str
    remedy: str


def merge(findings: Iterable[tuple[str, Finding]]) -> list[Line]:
    """Lines of (machine, finding), by check in the order in which each is first found.

    Of a check, what is worst comes first. Texts hold no secrets afterwards.
    """
    lines: dict[Finding, Line] = {}
    for machine, finding in findings:
        line = Line(
            finding.check, finding.level, [], redact(finding.message), redact(finding.remedy)
        )
        lines.setdefault(finding, line).machines.append(machine)
    checks = list(dict.fromkeys(finding.check for finding in lines))
    levels: Sequence[Level] = ("problem", "warning", "ok")
    return sorted(
        lines.values(), key=lambda line: (checks.index(line.check), levels.index(line.level))
    )


def format_size(num_bytes: float) -> str:
    """`24 GB`, `150 MB`; powers of 1,000."""
    return f"{num_bytes / 1e9:,.0f} GB" if num_bytes >= 1e10 else f"{num_bytes / 1e6:,.0f} MB"
