"""A decoder that some images end: a `sitecustomize` that worker and child processes come across."""

from pathlib import Path

import cv2
import numpy as np

ACTS = ["segfault", "abort", "spin", "hold", "exhaust", "raise", "kill"]
"""What an image can do to the decoder; its file says so behind its last byte."""

TIME_LIMIT_S = 1

SITECUSTOMIZE = f"""
import ctypes, os
import numpy as np
from mnist_ocr.digits import batch, guards

guards.TIME_LIMIT_S = guards.WAIT_LIMIT_S = {TIME_LIMIT_S}
decode_image = batch.decode_image
is_damaged = False

def spin():
    while True:
        pass

acts = {{
    b"segfault": lambda: ctypes.string_at(0),
    b"abort": os.abort,
    b"spin": spin,
    b"hold": lambda: ctypes.PyDLL(None).sleep(10**6),  # with Python's lock held
    b"exhaust": lambda: [np.empty(2**28, np.uint8) for _ in range(400)],
    b"raise": lambda: {{}}["no such key"],
    b"kill": lambda: os.kill(os.getpid(), 9),  # as the kernel does where memory is short
}}

def decode(data):
    global is_damaged
    if is_damaged:
        os.abort()
    is_damaged = data.endswith(b"damage")
    for word, act in acts.items():
        if data.endswith(word):
            act()
    return decode_image(data)

batch.decode_image = decode
"""


def write_fake_decoder(folder: Path) -> Path:
    """A folder for PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return folder


def encode(image: np.ndarray, act: str = "") -> bytes:
    """A PNG file that any other decoder reads as if it did nothing."""
    return cv2.imencode(".png", image)[1].tobytes() + act.encode()
