"""How a command ends that is ended from outside."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_ocr import cli


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "error: Interrupted. The same command goes on where it was.\n"),
        (
            SystemExit(signal.SIGTERM),
            143,
            "error: Stopped. The same command goes on where it was.\n",
        ),
        (SystemExit(2), 2, ""),
    ],
    ids=["ctrl-c", "ray job stop", "wrong flag"],
)
def test_command_that_is_ended_says_that_it_can_go_on(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code that a shell expects; what else exits does so as it was."""

    def end() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run_or_exit(end)
    assert caught.value.code == code
    assert capsys.readouterr().err == message


def test_reader_that_stops_is_no_error(repository: Path) -> None:
    """`mnist-ocr recipes --names | true` says nothing on stderr."""
    done = subprocess.run(
        f"{sys.executable} -m mnist_ocr recipes --names | true",
        shell=True,
        capture_output=True,
        text=True,
        cwd=repository,
    )
    assert done.stderr == ""
