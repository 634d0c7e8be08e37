"""Hours and dollars from what there is to do, and the limit that they come from."""

from dataclasses import replace

import pytest

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.instances import INSTANCES, find_instance
from mnist_ocr.labelling.limits import (
    CORES,
    DRIVER,
    GPUS,
    LISTING,
    NETWORK,
    REQUESTS,
    WAITING,
    Machines,
    Workload,
    estimate,
    move_to_s3,
)

MILLION = 1e6

WORK = Workload(
    num_images=100 * MILLION,
    num_gets=100 * MILLION,
    num_lists=100_000,
    num_puts=24_000,
    num_prefixes=1,
    transfer_bytes=40e9,
    list_core_s=1000,
    fetch_core_s=20_000,
    fetch_wait_s=100_000,
    decode_core_s=2000,
    predict_core_s=12_000,
    write_core_s=400,
    is_on_s3=True,
)
"""100 million PNGs under one prefix: 0.2 ms for a GET, 1 ms with 16 in flight."""

CLUSTER = Machines("4 x c7i.8xlarge", 128, 0, 50, 5.7)
ONE_CORE = Machines("this machine", 1, 0, None, None)


def test_one_prefix_limits_a_large_cluster() -> None:
    """100 million GETs at 5,500 a second are five hours, whatever the machines."""
    found = estimate(WORK, CLUSTER)
    assert found.limit == REQUESTS
    assert found.num_hours == found.hours[REQUESTS] == pytest.approx(5.05, abs=0.01)
    assert "pack the objects" in found.advice
    assert found.hours[CORES] == pytest.approx((35_000 + 400) / 128 / 3600)
    assert found.hours[NETWORK] == pytest.approx(40 * 8 / 50 / 3600)
    assert estimate(replace(WORK, num_prefixes=10), CLUSTER).hours[REQUESTS] == pytest.approx(
        0.505, rel=0.01
    )


def test_prices() -> None:
    """Instances by the hour; GETs at $0.40 a million, lists and puts at $5."""
    found = estimate(WORK, CLUSTER)
    assert found.instance_usd == pytest.approx(5.7 * found.num_hours)
    assert found.spot_usd == pytest.approx(found.instance_usd / 2)
    assert found.request_usd == pytest.approx(40 + 0.62)
    here = estimate(replace(WORK, is_on_s3=False), ONE_CORE)
    assert (here.instance_usd, here.spot_usd, here.request_usd) == (None, None, None)


def test_a_worker_does_nothing_else_while_it_waits_but_decode() -> None:
    """Waiting and predicting add up; where fetching is the core's work, there is no waiting."""
    found = estimate(WORK, ONE_CORE)
    assert found.limit == WAITING
    assert found.num_hours * 3600 == pytest.approx(100_000 + 12_000 + 400)
    assert "pack the objects" in found.advice
    quick = estimate(replace(WORK, fetch_wait_s=20_000), ONE_CORE)
    assert WAITING not in quick.hours
    assert quick.limit == CORES
    assert quick.advice.startswith("The cores would limit it, 56% of their time fetching: pack")


def test_listing_is_one_process() -> None:
    """100 million members of tars on 256 cores: they wait for 14 minutes of listing."""
    work = replace(WORK, num_gets=10_000, fetch_wait_s=0, list_core_s=840)
    found = estimate(work, replace(CLUSTER, num_cpus=256))
    assert found.limit == LISTING
    assert found.num_hours * 60 == pytest.approx(14)
    assert "one process lists a job" in found.advice


def test_network_limits_large_archives() -> None:
    """Few requests, many bytes."""
    work = replace(WORK, num_gets=10_000, transfer_bytes=1e15, fetch_wait_s=0)
    assert estimate(work, CLUSTER).limit == NETWORK
    assert "bandwidth" in estimate(work, CLUSTER).advice


def test_gpus_take_predicting_off_the_cores() -> None:
    """And the advice with it."""
    work = replace(WORK, predict_core_s=MILLION, num_gets=10_000, fetch_wait_s=0)
    without = estimate(work, CLUSTER)
    assert "98% of their time predicting: add GPUs" in without.advice
    found = estimate(work, replace(CLUSTER, num_gpus=4))
    assert found.hours[CORES] == pytest.approx((WORK.list_core_s + 22_400) / 128 / 3600)
    assert "predicting" not in found.advice


def test_files_are_taken_for_a_bucket_on_ec2() -> None:
    """A GET costs more than reading a file, and answers late; what is on S3 stays as measured."""
    work = replace(WORK, is_on_s3=False, fetch_core_s=500, fetch_wait_s=500)
    moved = move_to_s3(work)
    assert moved.is_on_s3
    assert moved.fetch_core_s == pytest.approx(17_000)
    assert moved.fetch_wait_s > moved.fetch_core_s
    assert move_to_s3(WORK) is WORK


def test_instance_type_that_is_not_known_is_named() -> None:
    """With those that are."""
    assert find_instance("g6.xlarge").num_gpus == 1
    with pytest.raises(
        UsageError, match=r"instance_type is 'c9\.huge': give one of c7i\.2xlarge, "
    ):
        find_instance("c9.huge")
    assert all(instance.usd_per_hour > 0 for instance in INSTANCES.values())


def test_gpus_and_the_driver_are_limits_too() -> None:
    """A GPU reads so many images a second; each shard takes the driver 10 ms."""
    work = replace(WORK, num_gets=10_000, fetch_wait_s=0)
    found = estimate(work, replace(CLUSTER, num_gpus=4, gpu_images_per_s=20_000))
    assert found.limit == GPUS
    assert found.num_hours * 3600 == pytest.approx(5000)
    assert "add GPUs" in found.advice
    assert GPUS not in estimate(work, replace(CLUSTER, gpu_images_per_s=20_000)).hours
    shards = replace(work, num_puts=2 * MILLION, list_core_s=0)
    assert estimate(shards, replace(CLUSTER, num_cpus=1024)).limit == DRIVER
    assert estimate(shards, CLUSTER).hours[DRIVER] == pytest.approx(10_000 / 3600)
    assert "--shard-size" in estimate(shards, replace(CLUSTER, num_cpus=1024)).advice
