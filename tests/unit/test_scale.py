"""The model behind docs/scale.md, where it can be known what it has to say."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from scale import format_table, tabulate
from scale_cluster import Fleet, Settings, sum_machines
from scale_inputs import LOOSE, MILLION, PARQUET, TAR, build_work, time_listing
from scale_simulation import Outcome, list_shards, simulate

from mnist_ocr.labelling.limits import CORES, DRIVER, GPUS, LISTING, REQUESTS, estimate

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/scale.md").read_text()
CALM = Settings(interruptions_per_hour=0.0, actor_start_s=0.0, max_partitions=1, served_share=1.0)
ONE, MANY = [Fleet("c7i.2xlarge", 1)], [Fleet("c7i.2xlarge", 32)]


def run(
    form: str, fleets: list[Fleet], settings: Settings = CALM, num_images: float = 20 * MILLION
) -> Outcome:
    work = build_work(form, num_images)
    return simulate(work, fleets, settings, list_wait_s=time_listing(form, work))


@pytest.mark.parametrize(
    ("form", "fleets", "limit"),
    [
        (LOOSE, ONE, REQUESTS),
        (LOOSE, MANY, REQUESTS),
        (TAR, ONE, CORES),
        (TAR, MANY, LISTING),
        (PARQUET, ONE, CORES),
        (PARQUET, [Fleet("g4dn.xlarge", 2), Fleet("c7i.2xlarge", 8)], GPUS),
    ],
)
def test_without_bad_luck_the_simulation_is_the_formula(
    form: str, fleets: list[Fleet], limit: str
) -> None:
    """But for the tail, and for the listing, which the formula counts among the workers' cores."""
    found = run(form, fleets)
    expected = estimate(build_work(form, 20 * MILLION), sum_machines(fleets))
    assert found.limit == expected.limit == limit
    assert found.job_s == pytest.approx(expected.num_hours * 3600, rel=0.1)


def test_small_shards_are_the_drivers_limit() -> None:
    """At 64 images a shard, 10 ms each are more than all else."""
    found = run(TAR, MANY, replace(CALM, shard_size=64), num_images=MILLION)
    assert found.limit == DRIVER
    assert found.job_s == pytest.approx(found.num_shards * 0.01, rel=0.05)


def test_every_image_is_labelled_once_whatever_is_lost() -> None:
    """Shards on a node that went without a notice come again, and take longer."""
    rough = replace(CALM, interruptions_per_hour=20.0, is_drained=False, seed=3)
    found = run(LOOSE, ONE, rough)
    assert sum(size for _, size in found.timeline) == 20 * MILLION
    assert found.num_lost_nodes > 5
    assert found.num_repeated >= found.num_lost_nodes
    assert found.job_s > run(LOOSE, ONE).job_s


def test_notice_saves_shards_that_are_shorter_than_it() -> None:
    """In tars it is a second; nodes that all wait for one prefix hold a shard for minutes."""
    rough = replace(CALM, interruptions_per_hour=20.0)
    found = run(TAR, ONE, rough, num_images=100 * MILLION)
    assert found.num_lost_nodes > 3
    assert found.num_repeated == 0
    assert run(LOOSE, MANY, rough).num_repeated > 0


def test_a_busy_store_divides_its_partitions() -> None:
    """Not before half an hour, then to twice the rate; and not where it is not kept busy."""
    divides = replace(CALM, max_partitions=32)
    found = run(LOOSE, ONE, divides, num_images=40 * MILLION)
    after = [size for at, size in found.timeline if at > found.job_s - 300]
    assert found.num_partitions == 2
    assert sum(after) / 300 == pytest.approx(11_000, rel=0.1)
    assert run(LOOSE, ONE, divides, num_images=5 * MILLION).num_partitions == 1
    assert run(TAR, ONE, divides).num_partitions == 1


def test_listing_begins_in_one_lane_and_splits() -> None:
    """The first shard after two pages; in the end the process's core is what it takes."""
    work = build_work(LOOSE, 20 * MILLION)
    times = list(list_shards(work, Settings()))
    assert times[0] == (pytest.approx(0.1, abs=0.01), 1024)
    assert times[-1][0] == pytest.approx(work.list_core_s, rel=0.05)
    assert sum(size for _, size in times) == 20 * MILLION


def test_same_seed_same_job() -> None:
    """And another one for another seed."""
    rough = Settings(interruptions_per_hour=2.0)
    assert run(LOOSE, ONE, rough) == run(LOOSE, ONE, rough)
    assert run(LOOSE, ONE, rough) != run(LOOSE, ONE, replace(rough, seed=1))


def test_spot_costs_less_than_on_demand_and_the_head_is_paid() -> None:
    """Half of the instances; head, disks and addresses stay."""
    spot, full = (sum_machines([Fleet("c7i.2xlarge", 2, is_spot)]) for is_spot in (True, False))
    assert full.usd_per_hour - spot.usd_per_hour == pytest.approx(0.357)
    assert sum_machines([Fleet("c7i.2xlarge", 0)]).usd_per_hour == pytest.approx(0.122, abs=0.001)


def test_document_has_the_tables_of_the_code() -> None:
    """Row by row, as `benchmarks/scale.py` prints them."""
    lines = [
        line for rows in tabulate(Settings()).values() for line in format_table(rows).split("\n")
    ]
    assert [line for line in lines if line not in DOCUMENT.splitlines()] == []
