"""Ray's token: is it asked for, and who can read it?"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mnist_ocr.diagnosis.findings import Finding

CHECK = "token"

GENERATE = "(umask 077 && ray get-auth-token --generate)"


@dataclass(frozen=True)
class Token:
    """What there is, without the token."""

    is_on: bool
    """Whether processes of this environment ask for it and show it."""
    is_variable: bool
    """Whether it is in the environment, where it goes before a file."""
    path: str
    """Of its file."""
    mode: int | None
    """Of its file; None where there is none."""


def look_at_token(environment: Mapping[str, str] = os.environ) -> Token:
    """Facts about this machine; the file is not read."""
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mode = None
    is_on = environment.get("RAY_AUTH_MODE", "").lower() == "token"
    return Token(is_on, bool(environment.get("RAY_AUTH_TOKEN")), str(path), mode)


def judge_token(found: Token, *, is_node: bool) -> Iterator[Finding]:
    """Findings about a machine, `is_node` one of a cluster, whose processes say how it started."""
    if found.mode is not None and found.mode & 0o077:
        yield Finding(
            CHECK,
            "problem",
            f"{found.path} has the mode {found.mode:04o}: others may read the token, which lets "
            "them run code",
            f"chmod 600 {found.path}; if others use the machine, delete it and make a new one.",
        )
        return
    has_token = found.is_variable or found.mode is not None
    if is_node and not found.is_on:
        yield Finding(
            CHECK,
            "warning",
            "Ray asks for no token: whoever reaches its ports runs code",
            f"Run {GENERATE}, copy it to every node, and `export RAY_AUTH_MODE=token` before each "
            "`ray start`.",
        )
    elif found.is_on and not has_token:
        yield Finding(
            CHECK,
            "problem",
            f"RAY_AUTH_MODE is token, and there is no {found.path}",
            f"Copy the cluster's token there with the mode 0600, or run {GENERATE}.",
        )
    elif not has_token:
        yield Finding(CHECK, "ok", "none yet: a Ray that a command starts here makes one")
    else:
        where = "in RAY_AUTH_TOKEN" if found.is_variable else f"{found.path}, mode 0600"
        if found.mode is not None and found.mode != 0o600 and not found.is_variable:
            where = f"{found.path}, mode {found.mode:04o}"
        yield Finding(CHECK, "ok", f"{'asked for' if is_node else 'is'} {where}")
