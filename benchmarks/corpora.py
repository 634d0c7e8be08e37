"""Hostile and odd files, one after the other in one process: seconds and memory, the worst of each.

    python benchmarks/corpora.py DATA/corpora/pngsuite DATA/corpora/pillow

Decoding and canonicalising, as a worker does, on one core. A process that dies is a process that
a worker would have lost: its exit code is the result then, and the last file is named on stderr.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
from machine import describe_machine

from mnist_ocr.digits.batch import prepare_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        decode_all(arguments.folders)
        return
    command = [sys.executable, __file__, "--child", *map(str, arguments.folders)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    rows = [json.loads(line) for line in child.stdout.splitlines()]
    if child.returncode:
        print(f"died ({child.returncode}) after {rows[-1]['name']}", file=sys.stderr)
        sys.exit(1)
    result = summarize(rows) | {"machine": describe_machine()}
    for name, value in result.items():
        print(f"{name:16} {value}")
    print(json.dumps(result))


def decode_all(folders: list[Path]) -> None:
    """One line of JSON a file, at once."""
    cv2.setNumThreads(1)
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        started = time.perf_counter()
        batch = prepare_images([content], 1)
        seconds = time.perf_counter() - started
        row = {"name": path.name, "status": batch.status, "seconds": seconds, "mb": peak_mb()}
        print(json.dumps(row), flush=True)


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    slowest = max(rows, key=lambda row: row["seconds"])
    return {
        "num_files": len(rows),
        "num_rows": sum(len(row["status"]) for row in rows),
        "statuses": dict(Counter(status for row in rows for status in row["status"])),
        "worst_seconds": round(slowest["seconds"], 3),
        "worst_file": slowest["name"],
        "total_seconds": round(sum(row["seconds"] for row in rows), 2),
        "peak_rss_mb": rows[-1]["mb"],
    }


def peak_mb() -> int:
    """Peak memory of this process, where Linux tells it (getrusage's may be the parent's)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


if __name__ == "__main__":
    main()
