"""What is reported of a shard."""

import json
import logging
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from mnist_ocr import log_lines
from mnist_ocr.labelling import dataflow, monitoring
from mnist_ocr.labelling.attempts import MAX_ATTEMPTS
from mnist_ocr.labelling.dataflow import start_watch, take_seconds
from mnist_ocr.labelling.monitoring import ShardMonitor, monitored
from mnist_ocr.labelling.report import Progress, follow
from mnist_ocr.labelling.shards import Receipt
from mnist_ocr.log_lines import JsonFormatter, LogFormat
from mnist_ocr.stopwatch import Stopwatch
from mnist_ocr.traffic import Traffic

TRAFFIC = Traffic(12, 1, 9000, Counter({80: 10}))
RECEIPT = Receipt(7, 10, 6, {"ok": 8, "blank": 1, "truncated": 1}, TRAFFIC, num_kept=2)
SECONDS = {"list": 4.0, "wait": 3.0, "fetch": 1.5, "predict": 0.5}


class Metrics:
    """Instead of Ray's: keeps what was recorded, by name and tags."""

    def __init__(self) -> None:
        self.values = Counter[str]()

    def make(self, name: str, description: str, tag_keys: Any = (), **_: Any) -> "Metric":
        """In the place of one of Ray's classes."""
        assert description.endswith(".")
        return Metric(self.values, name, tuple(tag_keys))


class Metric:
    """One of them; counters add, gauges replace, and a histogram counts."""

    def __init__(self, values: Counter[str], name: str, tag_keys: tuple[str, ...]) -> None:
        self.values, self.name, self.tag_keys = values, name, tag_keys
        self.tags: dict[str, str] = {}

    def set_default_tags(self, tags: Mapping[str, str]) -> "Metric":
        """As Ray's."""
        self.tags = dict(tags)
        return self

    def key(self, tags: Mapping[str, str] | None) -> str:
        """Name and tags, without the job's."""
        tags = {**self.tags, **(tags or {})}
        assert tuple(tags) == self.tag_keys
        assert tags.pop("job_id") == "abc"
        return " ".join([self.name.removeprefix("mnist_ocr_"), *tags.values()])

    def inc(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Of a counter."""
        assert value > 0  # as Ray has it
        self.values[self.key(tags)] += value

    def set(self, value: float) -> None:
        """Of a gauge."""
        self.values[self.key(None)] = value

    def observe(self, value: float) -> None:
        """Of a histogram."""
        self.values[f"{self.key(None)} {value:g}"] += 1


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Their values."""
    made = Metrics()
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(monitoring, kind, made.make)
    monkeypatch.setattr(log_lines, "_bound", {})
    return made.values


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """What is logged, as JSON."""
    found: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            """Keep it."""
            found.append(json.loads(JsonFormatter().format(record)))

    caplog.set_level(logging.INFO, "mnist_ocr")
    logger, handler = logging.getLogger("mnist_ocr"), Handler()
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_a_shard_is_counted_when_it_is_done(metrics: Counter[str]) -> None:
    """Every number of its receipt, and its seconds; kept rows are no images read."""
    monitor = ShardMonitor("abc")
    monitor.begin(7, 1)
    assert set(metrics) >= {"images", "failed_shards", "throttled_requests"}, "not there from zero"
    assert sum(metrics.values()) < 1e-300
    monitor.finish(RECEIPT, SECONDS)
    assert {key: value for key, value in metrics.items() if value > 1e-300} == {
        "images": 8,
        "rows ok": 8,
        "rows blank": 1,
        "rows truncated": 1,
        "shards": 1,
        "requests": 12,
        "failed_requests": 2,
        "throttled_requests": 1,
        "read_bytes": 9000,
        "stage_seconds list": 4,
        "stage_seconds wait": 3,
        "stage_seconds fetch": 1.5,
        "stage_seconds predict": 0.5,
        "shard_seconds 2": 1,
    }


def test_lost_workers_and_shards_given_up_are_counted(
    metrics: Counter[str], lines: list[dict[str, Any]]
) -> None:
    """An attempt after the first stands for a worker that was lost, until there are too many."""
    monitor = ShardMonitor("abc")
    for attempt in range(1, MAX_ATTEMPTS + 2):
        monitor.begin(7, attempt)
    assert metrics["repeated_shards"] == MAX_ATTEMPTS - 1
    assert metrics["failed_shards"] == 1
    assert [line["level"] for line in lines] == ["warning"] * (MAX_ATTEMPTS - 1) + ["error"]
    assert lines[0]["attempt"] == 2


def test_a_line_says_what_a_shard_took(metrics: Counter[str], lines: list[dict[str, Any]]) -> None:
    """And every line in between names the shard; none after it."""
    monitor = ShardMonitor("abc")
    monitor.begin(7, 1)
    logging.getLogger("mnist_ocr.s3").warning("slow")
    monitor.finish(RECEIPT, SECONDS)
    logging.getLogger("mnist_ocr.s3").warning("later")
    during, done, later = lines
    assert (during["job_id"], during["shard"]) == ("abc", 7)
    assert "shard" not in later
    for name in ("time", "level", "logger"):
        del done[name]
    assert done == {
        "message": "shard done",
        "job_id": "abc",
        "shard": 7,
        "attempt": 1,
        "num_images": 10,
        "statuses": RECEIPT.statuses,
        "work_s": 2.0,
        "seconds": SECONDS,
        "num_requests": 12,
        "num_failed_requests": 2,
        "num_throttled_requests": 1,
        "num_bytes": 9000,
        "latency_p50_s": pytest.approx(0.001, rel=0.05),
        "latency_p99_s": pytest.approx(0.001, rel=0.05),
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_listing_task_logs_no_secret(
    log_format: LogFormat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In either format, whichever package logs; in text no line for each shard that is done."""
    context = SimpleNamespace(get_job_id=str, get_node_id=str, get_worker_id=str)
    util = SimpleNamespace(get_node_ip_address=str)
    fake = SimpleNamespace(get_runtime_context=lambda: context, util=util)
    monkeypatch.setattr(monitoring, "ray", fake)
    monkeypatch.setattr(log_lines, "_bound", {})
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("mnist_ocr"), "level", logging.NOTSET)

    def make_rows(*_: object) -> Generator[pa.Table, None, None]:
        logging.getLogger("fsspec").warning("no https://user:s3cr3t@host/a.png")
        logging.getLogger("mnist_ocr.x").info("shard done")
        yield pa.table({"shard": [0]})

    monkeypatch.setattr(dataflow, "_make_rows", make_rows)
    job: Any = SimpleNamespace(job_id="abc")
    assert len(list(dataflow._list_shards(job, frozenset(), log_format))) == 1
    logged = capsys.readouterr().err
    assert "https://host/a.png" in logged
    assert "s3cr3t" not in logged
    assert ("shard done" in logged) == (log_format == "json")
    assert logged.count('"job_id": "abc"') == (2 if log_format == "json" else 0)


def test_progress_reaches_prometheus_and_the_person(
    metrics: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before the first shard to the end of the block, again and again."""
    monkeypatch.setattr(monitoring, "REPEAT_S", 0.01)
    told: list[Progress] = []
    with monitored("abc", told.append) as update:
        wait_for(metrics, {"listed_images": 0, "done_images": 0, "waiting_shards": 0})
        update(Progress(num_done=3, num_listed=9, num_waiting_shards=2))
        for _ in range(2):
            metrics.clear()
            wait_for(metrics, {"listed_images": 9, "done_images": 3, "waiting_shards": 2})
    metrics.clear()
    time.sleep(0.05)
    assert metrics == {}
    assert told == [Progress(num_done=3, num_listed=9, num_waiting_shards=2)]


def wait_for(metrics: Counter[str], expected: dict[str, int]) -> None:
    deadline = time.monotonic() + 10
    while dict(metrics) != expected:
        assert time.monotonic() < deadline, metrics
        time.sleep(0.01)


def test_shards_that_wait_are_counted() -> None:
    """Those listed, without those of earlier runs and those done; never fewer than none."""
    told: list[Progress] = []

    def label() -> Generator[Receipt, None, None]:
        yield RECEIPT
        yield RECEIPT

    listing: Any = SimpleNamespace(num_listed=40, num_shards=4, has_ended=False, look=lambda: None)
    list(follow(label(), [RECEIPT, RECEIPT], listing, told.append))
    assert [progress.num_waiting_shards for progress in told] == [1, 0, 0]
    assert [progress.num_done for progress in told] == [30, 40, 40]


def test_an_actor_waits_between_two_shards() -> None:
    """What passes there is a stage of the next shard, added to what others took for it."""
    row = pa.table({"seconds": ['{"list": 2.0}']})
    watch = Stopwatch()
    watch.lap("predict")
    take_seconds(watch)
    assert start_watch(row, watch) is watch
    assert set(watch.seconds) == {"list", "wait"}
    assert watch.seconds["list"] == 2
    assert set(start_watch(row).seconds) == {"list"}
