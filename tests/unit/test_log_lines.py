"""Log lines that programs read."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mnist_ocr import log_lines
from mnist_ocr.errors import UsageError
from mnist_ocr.log_lines import VARIABLE, JsonFormatter, bind, configure_logging, wanted_format


@pytest.fixture(autouse=True)
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test binds is gone afterwards."""
    monkeypatch.setattr(log_lines, "_bound", {})


def format_line(message: str, *args: object, **attributes: Any) -> dict[str, Any]:
    """What a record becomes."""
    record = logging.LogRecord("mnist_ocr.x", logging.WARNING, "x.py", 1, message, args, None)
    vars(record).update(attributes)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    document: dict[str, Any] = json.loads(line)
    return document


def test_a_record_is_one_json_object() -> None:
    """Time in UTC, level, logger, message, what is bound, and the record's own fields."""
    bind(job_id="abc", shard=7, attempt=1)
    bind(attempt=None)
    line = format_line("%d\nlines", 2, created=1.0625, msecs=62.5, fields={"seconds": {"fetch": 1}})
    assert line == {
        "time": "1970-01-01T00:00:01.062Z",
        "level": "warning",
        "logger": "mnist_ocr.x",
        "message": "2\nlines",
        "job_id": "abc",
        "shard": 7,
        "seconds": {"fetch": 1},
    }


def test_no_text_shows_a_secret() -> None:
    """Neither a message, nor a field, nor a traceback that quotes a URI."""
    uri = "https://user:s3cr3t@host/a.png?sig=s3cr3t"
    try:
        raise ValueError(uri)
    except ValueError:
        line = format_line("no %s", uri, exc_info=sys.exc_info(), fields={"path": uri})
    assert "s3cr3t" not in json.dumps(line)
    assert "ValueError" in line["traceback"]
    assert line["path"].startswith("https://host/a.png?sig=")


@pytest.mark.parametrize(("value", "expected"), [(None, "text"), ("", "text"), ("json", "json")])
def test_environment_chooses_the_format(
    value: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text unless JSON is asked for."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert wanted_format() == expected


def test_a_format_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo is not taken for text."""
    monkeypatch.setenv(VARIABLE, "JSON")
    with pytest.raises(UsageError, match=r"is 'JSON'\. Set it to text or json"):
        wanted_format()


def test_command_logs_in_the_format_asked_for(tmp_path: Path) -> None:
    """All of stderr but the error itself is JSON; other packages only warn."""
    code = """if True:
        import logging
        from mnist_ocr import cli
        def run():
            logging.getLogger("mnist_ocr.x").info("ours")
            logging.getLogger("botocore").info("theirs")
            logging.getLogger("botocore").warning("theirs, a warning")
            return 0
        cli.run_or_exit(run)
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={VARIABLE: "json", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert messages == ["ours", "theirs, a warning"]


def test_a_worker_logs_in_the_format_of_its_latest_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray gives a job's processes to the next one; a line is written once."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("mnist_ocr"), "level", logging.NOTSET)  # put back
    configure_logging("text")
    configure_logging("json")
    logging.getLogger("mnist_ocr.x").info("done")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "done"
    monkeypatch.setattr(logging.root, "handlers", [application := logging.NullHandler()])
    configure_logging("text")
    assert logging.root.handlers == [application]
