"""A plan as a person reads it."""

import json
import os
from dataclasses import asdict, replace

import pytest

from mnist_ocr.labelling.census import Kind
from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.inventory import Inventory
from mnist_ocr.labelling.limits import Machines, estimate, move_to_s3
from mnist_ocr.labelling.measuring import Cost, Measurement
from mnist_ocr.labelling.plan import (
    READ_ROW_CORE_S,
    WRITE_ROW_CORE_S,
    Plan,
    count_gets,
    count_reads,
    find_cluster,
    sum_up,
)
from mnist_ocr.labelling.plan_table import (
    format_bytes,
    format_hours,
    format_number,
    format_plan,
    format_seconds,
    format_usd,
)
from mnist_ocr.labelling.range_reader import CHUNK_BYTES

COST = Cost(2e-4, 1e-3, 0.03, 2e-5, 1e-4, 4e-6)
KINDS = [
    Kind(".tar", 100, 3.2e9, 4e6, is_archive=True),
    Kind(".png", 1e6, 4e8, 1e6),
    Kind(".zip", 1, 0, 1, is_archive=True),
]


def build_plan() -> Plan:
    measured = [Measurement(COST, {"PNG": 64}, 300)] * 2
    inventory = Inventory(KINDS, 0.04, 812, 3, 10.0)
    work = sum_up(inventory, KINDS[:2], measured, is_on_s3=True)
    machines = (Machines("this machine", 2, 0, None, None), Machines("4 x x", 128, 0, 50, 5.7))
    return Plan(
        input_uri="s3://scans/2026",
        num_objects=1_000_101,
        num_images=5_000_001,
        size_bytes=3_600_000_000,
        relative_error=0.04,
        num_list_requests=812,
        num_prefixes=3,
        kinds={kind.ending: round(kind.num_images) for kind in KINDS},
        formats={"PNG": 0.998, "not_an_image": 0.002},
        num_sampled=128,
        num_gets=round(work.num_gets),
        cost=COST,
        is_on_s3=True,
        estimates=(estimate(work, machines[0]), estimate(move_to_s3(work), machines[1])),
    )


def test_table_fits_a_terminal_and_says_what_an_estimate_is() -> None:
    """100 columns, no more digits than it has, each limit on both clusters."""
    text = format_plan(build_plan())
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = {line[:20].strip(): line[20:] for line in text.splitlines()}
    assert lines["objects"].startswith("1 million (± 4%, estimated from 812 pages of the listing)")
    assert lines["images"] == "5 million: .tar 80%, .png 20%, .zip 0.00%"
    assert lines["formats"] == "PNG 99.80%, not_an_image 0.20%, of 128 that were read"
    assert lines["seconds of a core"].startswith("fetch 200 µs, decode 20 µs, predict 100 µs")
    assert lines["waiting for data"].split() == ["46", "min", "43", "s"]
    assert lines["network"].split() == ["-", "1.1", "s"]
    assert lines["expected"].split() == ["about", "46", "min", "about", "1", "min"]
    assert lines["instances"].split() == ["-", "$0.10"]
    json.dumps(asdict(build_plan()))


def test_notes_say_what_comes_on_top_and_what_this_machine_is() -> None:
    """Start, uneven shares; GPUs and clusters are not looked for."""
    plan = build_plan()
    text = " ".join(format_plan(plan).split())
    assert "Ray's start comes on top. Small jobs take up to twice as long" in text
    assert "this machine: its CPUs, without GPUs; RAY_ADDRESS=auto" in text
    machines = replace(plan.estimates[0].machines, name="this cluster")
    first = replace(plan.estimates[0], machines=machines)
    assert "RAY_ADDRESS" not in format_plan(replace(plan, estimates=(first, plan.estimates[1])))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not on this system")
def test_this_machine_has_the_cpus_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container's share, not all that there are; where Ray runs, it is asked."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert find_cluster().num_cpus == 3


def test_what_was_cut_off_is_not_called_a_count() -> None:
    """And files are said to be taken for a bucket."""
    plan = replace(build_plan(), relative_error=None, is_on_s3=False)
    text = format_plan(plan)
    assert "at least 1,000,101 (not all were listed" in text
    assert "as if the objects lay in a bucket" in " ".join(text.split())
    assert "objects             1,000,101, over 3" in format_plan(replace(plan, relative_error=0.0))


def test_requests_of_archives() -> None:
    """Read in parts of 16 MiB; a tar is read to be listed, too, a zip has a directory."""
    size = 160 * 1024**2
    assert count_gets(Kind(".png", 10, 100, 10)) == 10
    zips, tars = (Kind(ending, 1, size, 8192, is_archive=True) for ending in (".zip", ".tar"))
    assert count_gets(zips) == 1 + 10 + 1 + 2
    assert count_gets(tars) == 1 + 10 + 1 + 1 + 20


def test_streams_are_read_again_by_each_shard() -> None:
    """A compressed tar of 80 shards: each reads what is before it, requests, bytes, and time."""
    stream = 80 * LabelConfig.shard_size
    tar = Kind(".tar.gz", 2, 8e10, 2 * stream, is_archive=True, num_in_stream=stream)
    assert count_reads(tar) == 41
    assert count_gets(tar) == pytest.approx(41 * 8e10 / CHUNK_BYTES, rel=0.03)
    work = sum_up(
        Inventory([tar], 0.0, 1, 0, 10.0),
        [tar],
        [Measurement(COST, {"PNG": 64}, 300)],
        is_on_s3=True,
    )
    assert work.transfer_bytes == pytest.approx(42 * 8e10)  # once to list it
    assert work.fetch_wait_s == pytest.approx(2 * stream * (41 * COST.fetch_wait + 3e-6))
    assert work.decode_core_s == pytest.approx(2 * stream * COST.decode)


def test_workload_weighs_kinds_by_their_images() -> None:
    """And counts bytes of tars twice."""
    slow = replace(COST, decode=1e-2)
    measured = [Measurement(COST, {"PNG": 64}, 300), Measurement(slow, {"TIFF": 64}, 300)]
    work = sum_up(Inventory(KINDS, 0.0, 1, 0, 10.0), KINDS[:2], measured, is_on_s3=False)
    assert work.decode_core_s == pytest.approx(4e6 * 2e-5 + 1e6 * 1e-2)
    assert work.transfer_bytes == pytest.approx(6.8e9)
    assert work.num_prefixes == 1
    assert work.list_core_s == pytest.approx(10 + 5_000_001 * WRITE_ROW_CORE_S)
    assert work.fetch_core_s == pytest.approx(5e6 * COST.fetch + 5_000_001 * READ_ROW_CORE_S)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_hours(0), "under 1 s"),
        (format_hours(42 / 3600), "42 s"),
        (format_hours(0.21), "13 min"),
        (format_hours(3.14), "3.1 h"),
        (format_hours(47.6), "48 h"),
        (format_hours(100), "4.2 days"),
        (format_seconds(1.23e-5), "12 µs"),
        (format_seconds(0.00123), "1.2 ms"),
        (format_seconds(0.31), "0.31 s"),
        (format_number(99_999), "99,999"),
        (format_number(1_234_567), "1.2 million"),
        (format_bytes(342), "342 B"),
        (format_bytes(999_600), "1 MB"),
        (format_bytes(5.4e15), "5,400 TB"),
        (format_usd(None), "-"),
        (format_usd(0), "$0.00"),
        (format_usd(0.004), "under $0.01"),
        (format_usd(1234.5), "$1,234"),
    ],
)
def test_numbers_have_two_digits(text: str, expected: str) -> None:
    """Or are whole."""
    assert text == expected
