"""60,000 small PNG files in a folder -> Parquet, with the shipped CNN: this job against none.

    .venv/bin/python benchmarks/label_bare.py --data-root data

Sides, alternated, each in a fresh process:

    mnist-ocr  `mnist-ocr label`
    bare       one process per core: `os.read`, `cv2.imdecode`, ONNX Runtime, Parquet; no more
    own-steps  the same processes with this project's decoding, checks, calibration and table
    ray-start  no images: `ray.init` and `import torch`, which start-up is compared with

Between `mnist-ocr` and `own-steps` lies what Ray costs, between that and `bare` what the checks do.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bare import BareWork, OwnSteps, list_paths, read_files, read_pngs, run_on_all_cores
from sides import (
    ROOT,
    Sides,
    Timeline,
    count_other_digits,
    label,
    parse_arguments,
    report,
    run_in_turn,
    write_images,
)

START_RAY = """
import time, ray
ray.init(include_dashboard=False, log_to_driver=False)
import torch
print(time.time())
"""


def main() -> None:
    arguments = parse_arguments(__doc__, SIDES)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "scans", arguments.data_root, arguments.num_images)
        runs = run_in_turn(SIDES, folder, arguments.rounds)
        labelling = [side for side in SIDES if side != "ray-start"]
        other_digits = count_other_digits(folder, labelling, arguments.num_images)
    first = [("first_s", "mnist-ocr", "ray-start")]
    report(runs, first, num_images=arguments.num_images, other_digits=other_digits)


def run_mnist_ocr(folder: Path) -> Timeline:
    return label(folder / "scans", folder / "mnist-ocr")


def run_bare(folder: Path) -> Timeline:
    onnx = ROOT / "mnist_ocr/pretrained/model.onnx"
    return run_on_all_cores(BareWork(read_pngs, folder / "bare", onnx), list_paths(folder))


def run_own_steps(folder: Path) -> Timeline:
    from mnist_ocr.digits.model import load_model

    work = OwnSteps(read_files, folder / "own-steps", load_model(None))
    return run_on_all_cores(work, list_paths(folder))


def start_ray(folder: Path) -> Timeline:
    """The end of the process is not counted."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", START_RAY], check=True, stdout=subprocess.PIPE, timeout=120
    )
    return [(started, 0), (float(done.stdout.splitlines()[-1]), 0)]


SIDES: Sides = {
    "mnist-ocr": run_mnist_ocr,
    "bare": run_bare,
    "own-steps": run_own_steps,
    "ray-start": start_ray,
}


if __name__ == "__main__":
    main()
