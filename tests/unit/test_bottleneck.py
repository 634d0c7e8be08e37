"""What limited a run."""

from typing import Any

import pytest

from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.traffic import Traffic

BUSY = {"fetch": 2.0, "decode": 2.0, "canonicalise": 2.0, "predict": 8.0, "write": 1.0}


def times(seconds: dict[str, float], **fields: Any) -> RunTimes:
    return RunTimes(
        **{"seconds": seconds, "wall_s": 10.0, "num_cpus": 2, "num_gpus": 0, "num_images": 1000}
        | fields
    )


def remote(**fields: int) -> Traffic:
    """Of a store behind a network."""
    traffic = Traffic(**fields)
    traffic.latencies[80] = 1
    return traffic


@pytest.mark.parametrize(
    ("run", "traffic", "limit"),
    [
        (times(BUSY), Traffic(1000), "predict, 40% of the time: add cores or GPUs"),
        (times(BUSY | {"fetch": 9.0}), Traffic(1000), "fetch, 45% of the time: add cores, or a"),
        (
            times(BUSY | {"fetch": 9.0}),
            remote(num_requests=1000),
            "fetch, 45% of the time: read them from archives (mnist-ocr pack), or add nodes.",
        ),
        (
            times(BUSY | {"fetch": 9.0}),
            remote(num_requests=10),
            "fetch, 45% of the time: add nodes.",
        ),
        (
            times(BUSY),
            remote(num_requests=1000, num_throttled=20),
            "the store, which refused 2% of the requests (503): spread the images over more "
            "prefixes, or read them from archives (mnist-ocr pack).",
        ),
        (times(BUSY, wall_s=60.0), Traffic(1000), "idle, 88% of the time: workers started"),
        (times(BUSY | {"list": 50.0}, wall_s=60.0), Traffic(1000), "list, which workers waited"),
        (times(BUSY, num_cpus=16, num_gpus=1), Traffic(1000), "predict, on the GPUs"),
        (
            times(BUSY | {"predict": 1.0}, num_cpus=1, num_gpus=1, wall_s=7.0),
            Traffic(),
            "fetch, 29%",
        ),
    ],
)
def test_limit_is_named_with_what_moves_it(run: RunTimes, traffic: Traffic, limit: str) -> None:
    """In one sentence."""
    assert run.find_limit(traffic).startswith(limit)


def test_packing_does_not_advise_to_pack() -> None:
    """Though it has many requests."""
    run = times(BUSY | {"fetch": 9.0})
    assert run.find_limit(remote(num_requests=1000), can_pack=False).endswith(": add nodes.")


def test_stages_and_idle_add_up() -> None:
    """To the seconds of all workers; the listing runs beside them."""
    run = times(BUSY | {"list": 5.0})
    stages = ("fetch", "decode", "canonicalise", "predict", "write", "idle")
    assert sum(run.load(stage) for stage in stages) == pytest.approx(1)
    lines = run.format().splitlines()
    assert lines[0] == "2 cores for 10.0 s"
    assert [line.split()[0] for line in lines[1:]] == ["list", *stages]
    assert lines[5].split() == ["predict", "8.0", "s", "40%", "8000.0", "us", "an", "image"]
