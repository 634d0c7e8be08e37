"""Two million images in one job: does anything grow? Memory, open files, sockets, processes.

    .venv/bin/python benchmarks/soak.py --data-root data

100 folders of hard links to 20,000 files: MNIST's digits, one in ten as a scan of another size, one
in fifty damaged. Once in two seconds each process of the job is looked at: the driver, the workers,
Ray's own. Memory is that which no other process shares (USS). Growth is that from the second tenth
of the images, the first being the warm-up, to the last tenth, medians of both. The last line of
stdout is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import cv2
import numpy as np
import psutil
from machine import describe_machine
from sides import load_images

NUM_FILES, NUM_COPIES = 20_000, 100

LOOK_INTERVAL_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--num-copies", type=int, default=NUM_COPIES, help="fewer for a trial")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder / "scans/000", arguments.data_root)
        for i in range(1, arguments.num_copies):
            copy = folder / f"scans/{i:03d}"
            copy.mkdir()
            for entry in os.scandir(folder / "scans/000"):
                os.link(entry.path, copy / entry.name)
        before = list_left_overs()
        looks, summary = run_and_look(folder)
        left_over = sorted(list_left_overs() - before)
    growth = measure_growth(looks, summary["num_images"])
    print("| process | what | second tenth | last tenth | growth |")
    print("|---|---|---|---|---|")
    for role, measures in growth.items():
        for what, (early, late) in measures.items():
            print(f"| {role} | {what} | {early:,.0f} | {late:,.0f} | {late / early - 1:+.1%} |")
    print(f"left over: {left_over or 'nothing'}")
    document = {"growth": growth, "left_over": left_over, "summary": summary}
    print(json.dumps({**document, **describe_machine()}))


def write_files(folder: Path, data_root: str) -> None:
    """Digits as PNG files: as they are, as scans, damaged."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for i, image in enumerate(load_images(data_root, NUM_FILES)):
        if i % 10 == 0:
            size = int(numbers.integers(32, 90))
            page = cv2.resize(255 - image // 2, (size, size), interpolation=cv2.INTER_CUBIC)
            image = cv2.add(page, numbers.integers(0, 20, page.shape, np.uint8))
        data = cv2.imencode(".png", image)[1].tobytes()
        data = data[: numbers.integers(len(data))] if i % 50 == 1 else data
        (folder / f"{i:05d}.png").write_bytes(data)


def run_and_look(folder: Path) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Label all of them; what was seen meanwhile, and the command's last line."""
    output = folder / "labels"
    command = [sys.executable, "-m", "mnist_ocr", "label", str(folder / "scans"), str(output)]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "RAY_ADDRESS": "local"}
    )
    looks = []
    while driver.poll() is None:
        time.sleep(LOOK_INTERVAL_S)
        num_parts = len(list(output.glob("part-*.parquet")))
        looks.append({"num_parts": num_parts, "processes": look(driver.pid)})
    assert not driver.returncode
    assert driver.stdout
    return looks, json.loads(driver.stdout.read().splitlines()[-1])


def look(pid: int) -> dict[str, dict[str, float]]:
    """By role, of all processes of the job: how many, MB, open files and sockets."""
    roles: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for process in processes:
        try:
            role = "driver" if process.pid == pid else name_role(process)
            megabytes = process.memory_full_info().uss / 1e6
            num_files = process.num_fds()
        except psutil.NoSuchProcess:
            continue
        measures = roles[role]
        measures["processes"] += 1
        measures["MB"] += megabytes
        measures["open files and sockets"] += num_files
    return roles


def name_role(process: psutil.Process) -> str:
    """The labellers, the listing, all else of Ray."""
    command = " ".join(process.cmdline())
    if "ShardLabeller" in command:
        return "labellers"
    return "listing" if "ManifestSource" in command or "ReadManifest" in command else "Ray"


def measure_growth(looks: list[dict], num_images: int) -> dict[str, dict[str, tuple]]:
    """Medians in the second and in the last tenth of the Parquet files."""
    last = looks[-1]["num_parts"]
    tenths = [
        [each["processes"] for each in looks if start * last <= each["num_parts"] < end * last]
        for start, end in ((0.1, 0.2), (0.9, 1.0))
    ]
    return {
        role: {
            what: tuple(
                statistics.median(each[role][what] for each in tenth if role in each)
                for tenth in tenths
            )
            for what in ("processes", "MB", "open files and sockets")
        }
        for role in ("driver", "labellers", "Ray")
    }


def list_left_overs() -> set[str]:
    """Processes of Ray, and temporary files, its logs apart."""
    names = (process.info["name"] for process in psutil.process_iter(["name"]))
    files = (str(path) for path in Path(gettempdir()).iterdir() if path.name != "ray")
    shared = (str(path) for path in Path("/dev/shm").iterdir())
    return {name for name in names if name and name.startswith(("ray", "gcs"))} | {*files, *shared}


if __name__ == "__main__":
    main()
