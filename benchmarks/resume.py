"""A job that is resumed, against one that starts: GETs an image, seconds to the first new shard.

    PYTHONPATH=tests .venv/bin/python benchmarks/resume.py --data-root data

20,000 PNG objects on `rclone serve s3`, on the same cores, labelled in shards of 128. Sides,
alternated: a fresh start, and the same command on outputs of which half, or all but two, of the
Parquet files are there. GETs are counted in the server's debug log, apart from the timed rounds.
The last line of stdout is JSON.
"""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
from label_s3 import BUCKET, serve_buckets
from sides import (
    Sides,
    Timeline,
    label,
    parse_arguments,
    report,
    run_in_turn,
    write_images,
    write_untrained_mlp,
)

NUM_IMAGES, SHARD_SIZE = 20_000, 128

GET = re.compile(r"serve s3: GET OBJECT")


def main() -> None:
    arguments = parse_arguments(__doc__, SIDES)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "buckets" / BUCKET, arguments.data_root, NUM_IMAGES)
        write_untrained_mlp(folder / "model")
        with serve_buckets(folder):
            run_label(folder, "whole")
            runs = run_in_turn(SIDES, folder, arguments.rounds)
        gets_per_image = {}
        for side in SIDES:
            with serve_buckets(folder, "-vv"):
                run_in_turn([side], folder, 1)
            gets = len(GET.findall((folder / "server.log").read_text()))
            gets_per_image[side] = gets / count_left(folder, side)
            print(f"GETs per image that was left, {side}: {gets_per_image[side]:.2f}")
    report(runs, num_images=NUM_IMAGES, gets_per_image_left=gets_per_image)


def count_left(folder: Path, side: str) -> int:
    """Images whose rows a run of a side wrote."""
    old = {path.name for path in find_kept(folder, side)}
    parts = [path for path in (folder / side).glob("part-*.parquet") if path.name not in old]
    return sum(pq.read_metadata(path).num_rows for path in parts)


def find_kept(folder: Path, side: str) -> list[Path]:
    """The Parquet files of the whole output that a side begins with."""
    parts = sorted((folder / "whole").glob("part-*.parquet"))
    if side == "resumed-50":
        return parts[::2]
    return [] if side == "fresh" else [*parts[:50], *parts[51:120], *parts[121:]]


def run_label(folder: Path, side: str) -> Timeline:
    flags = ["--shard-size", str(SHARD_SIZE)]
    return label(f"s3://{BUCKET}", folder / side, folder / "model", *flags)


def run_fresh(folder: Path) -> Timeline:
    return run_label(folder, "fresh")


def run_resumed_50(folder: Path) -> Timeline:
    return run_resumed(folder, "resumed-50")


def run_resumed_99(folder: Path) -> Timeline:
    return run_resumed(folder, "resumed-99")


def run_resumed(folder: Path, side: str) -> Timeline:
    shutil.copytree(
        folder / "whole", folder / side, ignore=shutil.ignore_patterns("part-*", "_SUCCESS")
    )
    for part in find_kept(folder, side):
        shutil.copy2(part, folder / side)
    return run_label(folder, side)


SIDES: Sides = {"fresh": run_fresh, "resumed-50": run_resumed_50, "resumed-99": run_resumed_99}


if __name__ == "__main__":
    main()
