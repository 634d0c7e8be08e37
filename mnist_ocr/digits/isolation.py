"""Images of which one may end its process: decoded in a child process, one after the other.

The child holds no torch, no Ray and no shard, so that it can die, and it is told apart which image
it died of: that one's status becomes `poison`, and a fresh child takes the next.

    parent: [height, width] or null, then bytes  ->  child: [status, error, trust], then both views
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from multiprocessing.connection import Connection, Pipe
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits import guards
from mnist_ocr.digits.batch import Content, ImageBatch, prepare_images
from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.errors import JobFailedError, ObjectError
from mnist_ocr.stopwatch import Stopwatch

POISON = "poison"
"""Status of an image that ended, or held up, the process that decoded it."""

MAX_TRIALS = 2
"""Of an image, the second in a fresh child: the first death may be another image's late effect."""

MAX_KILLED = 3
"""Children that something else may end in an image's turn: the kernel short of memory, a person."""

FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""No decoder ends its own process like that, but one that takes all memory is ended so."""

PROBE: Final = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
"""An image that hurts nobody: a child that is killed in its turn, too, says nothing of another."""


def prepare_isolated(
    contents: Iterable[Content], num_images: int, watch: Stopwatch | None = None
) -> ImageBatch:
    """As `prepare_images`, whatever the contents do to their decoder.

    Takes half a second for a child to start, again for each image that ends one, and twice
    `TIME_LIMIT_S` for each that would never end, twice `WAIT_LIMIT_S` if it does nothing meanwhile.

    Raises:
        JobFailedError: no child can be started, or something kills them whatever they do.
    """
    watch = watch or Stopwatch()
    batch = ImageBatch.build_empty(num_images)
    child = _Child()
    try:
        for i, content in enumerate(contents):
            watch.lap("fetch")
            if isinstance(content, ObjectError):
                batch.status[i], batch.error[i] = content.status, str(content)
                continue
            num_trials = num_killed = 0
            while num_trials < MAX_TRIALS and num_killed < MAX_KILLED:
                views = child.prepare(content)
                if views.status != POISON:
                    break
                num_killed += child.is_killed
                num_trials += not child.is_killed
                child.close()
                child = _Child()
            if num_killed == MAX_KILLED:
                child.check()
            batch.status[i], batch.error[i], batch.trust[i] = views[:3]
            batch.images[i], batch.raw[i] = views.pixels
            watch.lap("decode")
    finally:
        child.close()
    return batch


class _Views(NamedTuple):
    """What becomes of an image; an `ImageBatch` of one."""

    status: str
    error: str | None
    trust: float
    pixels: NDArray[np.uint8]
    """(2, 28, 28): canonical and raw."""


class _Child:
    """A process that prepares images until one ends it."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        # -P: not the current folder, but whatever else this process finds its modules in
        command = [sys.executable, "-P", "-m", "mnist_ocr.digits.isolation", str(theirs.fileno())]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
        )
        theirs.close()
        try:
            self._connection.recv_bytes()  # it is ready: what ends it from now on is an image
        except (EOFError, OSError) as error:
            self.close()
            code = self._process.returncode
            raise JobFailedError(
                f"A process to decode images in, {' '.join(command)}, did not start (exit code "
                f"{code}): Ray's logs say why. What is done is kept, and the same command resumes."
            ) from error

    def prepare(self, content: bytes | NDArray[np.uint8]) -> _Views:
        """Have an image decoded."""
        shape = None if isinstance(content, bytes) else content.shape
        try:
            self._connection.send_bytes(json.dumps(shape).encode())
            self._connection.send_bytes(
                content if isinstance(content, bytes) else content.tobytes()
            )
            status, error, trust = json.loads(self._connection.recv_bytes())
            pixels = np.frombuffer(self._connection.recv_bytes(), np.uint8)
        except (EOFError, OSError):
            status, error, trust = POISON, _explain(self._process.wait()), 1.0
            pixels = np.zeros(2 * IMAGE_SIZE**2, np.uint8)
        return _Views(status, error, trust, pixels.reshape(2, IMAGE_SIZE, IMAGE_SIZE))

    def check(self) -> None:
        """Make sure that children live where no image ends them.

        Raises:
            JobFailedError: this one does not.
        """
        if self.prepare(PROBE).status == POISON:
            raise JobFailedError(
                "Something ends the processes that decode images, whatever the image (exit code "
                f"{self._process.poll()}): give the workers more memory. What is done is kept, and "
                "the same command resumes."
            )

    @property
    def is_killed(self) -> bool:
        """Whether something else than an image has ended it."""
        return self._process.returncode in FROM_OUTSIDE

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def _explain(code: int) -> str:
    """What ended a child, for a person."""
    if limit := {-signal.SIGPROF: guards.TIME_LIMIT_S, -signal.SIGALRM: guards.WAIT_LIMIT_S}.get(
        code
    ):
        return f"Decoding it takes longer than {limit:,} s: save it anew."
    if code in FROM_OUTSIDE:
        return (
            f"The process that decodes it is ended each time (signal {-code}, "
            f"{signal.strsignal(-code)}), for want of memory as a rule: save it anew, or retry it "
            "where there is more."
        )
    reason = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
    return f"Decoding it ends the process that tries it ({reason}): save it anew."


def serve(connection: Connection) -> None:
    """Prepare images, until the parent is gone."""
    cv2.setNumThreads(1)
    connection.send_bytes(b"ready")
    while True:
        try:
            shape, content = json.loads(connection.recv_bytes()), connection.recv_bytes()
        except (EOFError, OSError):
            return
        page = np.frombuffer(content, np.uint8).reshape(shape) if shape else content
        status, error, trust, pixels = _prepare(page)
        connection.send_bytes(json.dumps([status, error, trust]).encode())
        connection.send_bytes(pixels.tobytes())


def _prepare(content: bytes | NDArray[np.uint8]) -> _Views:
    try:
        batch = prepare_images([content], 1, is_guarded=True)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, MemoryError):
            reason = f"more than {guards.MEMORY_LIMIT / 1024**3:g} GiB of memory"
        pixels = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        return _Views(POISON, f"Decoding it fails ({reason}): save it anew.", 1.0, pixels)
    pixels = np.stack([batch.images[0], batch.raw[0]])
    return _Views(batch.status[0], batch.error[0], float(batch.trust[0]), pixels)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
