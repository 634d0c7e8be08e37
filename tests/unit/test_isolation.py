"""Images that end, hold up or exhaust their decoder, in a child process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import poison
import pytest

from mnist_ocr.digits import guards, isolation
from mnist_ocr.digits.batch import Content, ImageBatch, prepare_images
from mnist_ocr.digits.isolation import prepare_isolated
from mnist_ocr.errors import JobFailedError, ObjectError


def make_pages(num_pages: int) -> list[np.ndarray]:
    """MNIST-like, noisy and larger ones, by turns."""
    rng = np.random.default_rng(0)
    pages = []
    for i in range(num_pages):
        page = np.zeros((28, 28), np.uint8) if i % 3 < 2 else np.full((50, 40), 20, np.uint8)
        page[5:24, 5:24] = rng.integers(128, 256, (19, 19))
        pages.append(page if i % 3 == 0 else np.maximum(page, rng.integers(0, 30, page.shape)))
    return [page.astype(np.uint8) for page in pages]


def assert_same(first: ImageBatch, second: ImageBatch, rows: np.ndarray) -> None:
    for name in ("images", "raw", "trust"):
        assert (getattr(first, name)[rows] == getattr(second, name)[rows]).all()
    for name in ("status", "error"):
        assert (np.array(getattr(first, name))[rows] == np.array(getattr(second, name))[rows]).all()


@pytest.fixture
def fake_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children inherit it."""
    monkeypatch.syspath_prepend(str(poison.write_fake_decoder(tmp_path / "fake")))
    for name in ("TIME_LIMIT_S", "WAIT_LIMIT_S"):  # for the sentence
        monkeypatch.setattr(guards, name, poison.TIME_LIMIT_S)


def test_child_gives_the_same_views_bit_by_bit() -> None:
    """Files, grey pages, unreadable and missing ones come out as in the process itself."""
    pages = make_pages(90)
    contents: list[Content] = [poison.encode(page) for page in pages]
    contents += [*pages, b"", b"no image", ObjectError("missing", "It is gone.")]
    contents += [np.full((40, 40), 200, np.uint8), contents[0][:50]]
    together = prepare_images(contents, len(contents))
    assert_same(prepare_isolated(contents, len(contents)), together, np.arange(len(contents)))
    assert len(set(together.status)) == 6


@pytest.mark.usefixtures("fake_decoder")
def test_only_what_ends_the_decoder_is_poison() -> None:
    """Each kind of death costs its own image, and a sentence says what it was."""
    pages, culprits = make_pages(60), dict(zip(range(3, 60, 9), poison.ACTS, strict=False))
    contents = [poison.encode(page, culprits.get(i, "")) for i, page in enumerate(pages)]
    batch = prepare_isolated(contents, len(contents))
    assert {i: status for i, status in enumerate(batch.status) if status != "ok"} == dict.fromkeys(
        culprits, "poison"
    )
    expected = prepare_images([poison.encode(page) for page in pages], len(pages))
    assert_same(batch, expected, np.setdiff1d(np.arange(60), list(culprits)))
    assert not batch.images[list(culprits)].any()
    reasons = ["signal 11, Segmentation fault", "signal 6, Aborted", "longer than 1 s"]
    reasons += ["longer than 1 s", "more than 2 GiB of memory", "KeyError: 'no such key'"]
    reasons += ["is ended each time (signal 9, Killed)"]
    for i, reason in zip(culprits, reasons, strict=True):
        assert reason in str(batch.error[i])


@pytest.mark.usefixtures("fake_decoder")
def test_late_effect_of_another_image_is_forgiven() -> None:
    """An image in whose turn the decoder dies is decoded once more, in a fresh child."""
    contents = [poison.encode(page, "damage" * (i == 1)) for i, page in enumerate(make_pages(4))]
    assert prepare_isolated(contents, 4).status == ["ok"] * 4


def test_child_that_something_else_ends_makes_nothing_poison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two such deaths cost time; where any child dies so, it is an error of the job."""
    prepare = isolation._Child.prepare
    num_left = 2

    def end_and_prepare(child: isolation._Child, content: bytes) -> object:
        nonlocal num_left
        if num_left:
            num_left -= 1
            child._process.kill()
            child._process.wait()
        return prepare(child, content)

    monkeypatch.setattr(isolation._Child, "prepare", end_and_prepare)
    contents = [poison.encode(page) for page in make_pages(3)]
    assert prepare_isolated(contents, 3).status == ["ok"] * 3
    num_left = 9
    with pytest.raises(JobFailedError, match=r"whatever the image .*-9.*more memory"):
        prepare_isolated(contents, 3)


def test_child_that_cannot_start_makes_nothing_poison(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A broken installation is an error of the job."""
    (tmp_path / "cv2.py").write_text("raise ImportError('broken')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(JobFailedError, match="did not start"):
        prepare_isolated([b"x"], 1)


def test_no_child_outlives_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where a batch is ready, nor where its contents end in an error."""
    children = []
    popen = subprocess.Popen

    def start(*args: object, **options: object) -> object:
        children.append(popen(*args, **options))
        return children[-1]

    def fail() -> object:
        yield b"no image"
        raise ConnectionError("the store is gone")

    monkeypatch.setattr(isolation.subprocess, "Popen", start)
    prepare_isolated([b"no image"], 1)
    with pytest.raises(ConnectionError):
        prepare_isolated(fail(), 2)
    assert [child.poll() is not None for child in children] == [True, True]


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_hang_ends_its_process_whoever_holds_the_lock() -> None:
    """A block that holds Python's lock for longer than the limit ends by SIGALRM."""
    code = "import ctypes; from mnist_ocr.digits import guards; guards.WAIT_LIMIT_S = 1\n"
    code += "with guards.limited_time(): pass\n"
    code += "ctypes.PyDLL(None).usleep(1_500_000); print('alive', flush=True)\n"
    code += "with guards.limited_time(): ctypes.PyDLL(None).sleep(100)"
    done = run(code)
    assert (done.returncode, done.stdout) == (-14, "alive\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not limit it")
def test_memory_is_limited_within_the_block_only() -> None:
    """3 GiB more than there are are refused, one is not; afterwards any are allowed."""
    code = "import numpy as np; from mnist_ocr.digits import guards\n"
    code += "with guards.limited_memory():\n"
    code += "    np.empty(2**30, np.uint8)\n"
    code += "    try: np.empty(3 * 2**30, np.uint8)\n"
    code += "    except MemoryError: print('refused')\n"
    code += "np.empty(4 * 2**30, np.uint8); print('allowed')"
    assert run(code).stdout == "refused\nallowed\n"


def test_what_computes_is_ended_by_its_own_time_and_what_waits_by_the_clock() -> None:
    """A busy machine makes nothing poison: a second of the processor may take many."""
    code = "import time; from mnist_ocr.digits import guards; guards.TIME_LIMIT_S = 1\n"
    code += "with guards.limited_time(): time.sleep(1.5)\n"
    code += "print('alive', flush=True)\n"
    code += "with guards.limited_time():\n    while True: pass"
    done = run(code)
    assert (done.returncode, done.stdout) == (-27, "alive\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not limit it")
def test_threads_may_start_while_images_are_fetched() -> None:
    """Their stacks count as memory: the limit is there for decoding alone."""
    code = "import threading, time; from mnist_ocr.digits.batch import prepare_images\n"
    code += "def fetch():\n"
    code += "    for i in range(64):\n"
    code += "        for _ in range(8):\n"
    code += "            threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n"
    code += "        yield b'no image'\n"
    code += "print(set(prepare_images(fetch(), 64, is_guarded=True).status))"
    assert run(code).stdout == "{'not_an_image'}\n"
