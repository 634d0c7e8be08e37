"""What is shown of a running job."""

import io
import logging

import pytest

from mnist_ocr.labelling.report import Progress, ProgressDisplay, format_progress


@pytest.mark.parametrize(
    ("history", "line"),
    [
        ([], "starting workers, 7 s"),
        ([(1.0, Progress(4096, 9192))], "4,096 / 9,192 listed so far · 0 errors"),
        (
            [(1.0, Progress(797, 797, True)), (1.1, Progress(797, 797, True))],
            "797 / 797 · 0 errors",
        ),
        (
            [(1.0, Progress(0)), (3.0, Progress(8192, 123_456, num_errors=5))],
            "8,192 / 123,456 listed so far · 4,096 images/s · 5 errors",
        ),
        (
            [(1.0, Progress(0)), (3.0, Progress(8192, 60_000_000, True, 12_345))],
            "8,192 / 60,000,000 · 4,096 images/s · 4:04:06 to go · 12,345 errors",
        ),
    ],
)
def test_line_says_done_total_rate_time_and_errors(
    history: list[tuple[float, Progress]], line: str
) -> None:
    """What is not known yet is left out, not guessed."""
    assert format_progress(history, elapsed_s=7.2) == line


def test_terminal_shows_one_line_that_is_redrawn() -> None:
    """Carriage returns on a terminal; the last state stays."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with ProgressDisplay(terminal) as display:
        display.update(Progress(5, 10, True))
        display.update(Progress(10, 10, True))
    assert terminal.getvalue().endswith("0 errors\n")
    assert terminal.getvalue().count("\n") == 1
    assert "\r\x1b[K10 / 10" in terminal.getvalue()


def test_log_gets_plain_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Elsewhere the stream stays clean and the log has the last state."""
    stream = io.StringIO()
    with caplog.at_level(logging.INFO), ProgressDisplay(stream) as display:
        display.update(Progress(10, 10, True, 1))
    assert stream.getvalue() == ""
    assert caplog.messages == ["10 / 10 · 1 errors"]


def test_nothing_done_leaves_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """A command that fails at once shows its error only."""
    with caplog.at_level(logging.INFO), ProgressDisplay(io.StringIO()):
        pass
    assert caplog.messages == []
