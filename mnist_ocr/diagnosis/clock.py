"""Clocks, against each other and against a store's."""

from mnist_ocr.diagnosis.findings import Finding

CHECK = "clock"

GOOD_SKEW_S, MAX_SKEW_S = 5.0, 300.0
"""S3 refuses a signature that is 900 s off."""


def judge_clock(skew_s: float, reference: str) -> Finding:
    """A finding about a clock that is `skew_s` seconds ahead of a reference."""
    size = abs(skew_s)
    if size <= GOOD_SKEW_S:
        return Finding(CHECK, "ok", f"within {GOOD_SKEW_S:g} s of {reference}")
    return Finding(
        CHECK,
        "problem" if size > MAX_SKEW_S else "warning",
        f"{size:,.0f} s {'ahead of' if skew_s > 0 else 'behind'} {reference}; from 900 s on S3 "
        "refuses every request",
        "Turn time synchronisation on there (chrony, systemd-timesyncd).",
    )
