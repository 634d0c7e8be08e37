"""Every file of two hostile corpora, in a child process: its death is a failed test, not the run's.

Run as a script, this file is that child: CORPUS_FOLDER OUTPUT_FOLDER.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mnist_ocr.digits.decoding import DECODE_STATUSES, UnreadableImageError, decode_image

MAX_SECONDS = 2.0
MAX_RSS_MB = 400


def decode_all(folder: Path, output: Path) -> None:
    """Write one JSON line a file, at once so that the last names the killer; and the pages."""
    with (output / "results.jsonl").open("w") as results:
        for path in sorted(folder.iterdir()):
            data, start = path.read_bytes(), time.perf_counter()
            results.write(f'{{"name": {json.dumps(path.name)}, ')
            results.flush()
            try:
                np.save(output / path.name, decode_image(data))
                status = "ok"
            except UnreadableImageError as error:
                status = error.status
            seconds = time.perf_counter() - start
            results.write(f'"status": "{status}", "seconds": {seconds}, "rss_mb": {peak_mb()}}}\n')


def peak_mb() -> int:
    """Peak memory of this process, in MB, where Linux tells it (getrusage's is the parent's)."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else "")
    return int(found[1]) // 1024 if found else 0


def run_child(folder: Path, output: Path) -> list[dict[str, object]]:
    command = [sys.executable, __file__, str(folder), str(output)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = (output / "results.jsonl").read_text().splitlines()
    assert child.returncode == 0, f"died at {lines[-1]}: {child.stderr[-2000:]}"
    return [json.loads(line) for line in lines]


@pytest.mark.test_data
@pytest.mark.parametrize("name", ["pngsuite", "pillow"])
def test_every_file_gives_a_page_or_a_reason(test_data: Path, tmp_path: Path, name: str) -> None:
    """Crash, memory and timeout reproducers included: one outcome a file, fast and small."""
    folder = test_data / "corpora" / name
    results = run_child(folder, tmp_path)
    assert len(results) == len(list(folder.iterdir()))
    assert {result["status"] for result in results} <= {"ok", *DECODE_STATUSES}
    assert max(float(str(result["seconds"])) for result in results) < MAX_SECONDS
    assert max(int(str(result["rss_mb"])) for result in results) < MAX_RSS_MB


def pillow_pages(path: Path) -> list[np.ndarray]:
    """The page as Pillow sees it, on white and on black paper."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "I;16":
        levels = np.asarray(image)
        grey = np.round(levels / 257)
        return [np.where(levels == image.info.get("transparency"), p, grey) for p in (255, 0)]
    page = image.convert("RGBA")
    papers = [Image.new("RGBA", page.size, (level, level, level, 255)) for level in (255, 0)]
    return [np.asarray(Image.alpha_composite(paper, page).convert("L")) for paper in papers]


@pytest.mark.test_data
def test_pngsuite_is_read_as_pillow_reads_it(test_data: Path) -> None:
    """Files named x* are errors; of all others each grey value is within 1 of Pillow's."""
    for path in sorted((test_data / "corpora" / "pngsuite").iterdir()):
        if path.name.startswith("x"):
            with pytest.raises(UnreadableImageError):
                decode_image(path.read_bytes())
        else:
            page = decode_image(path.read_bytes()).astype(int)
            error = min(np.abs(page - expected).max() for expected in pillow_pages(path))
            assert error <= 1, path.name


if __name__ == "__main__":
    decode_all(Path(sys.argv[1]), Path(sys.argv[2]))
