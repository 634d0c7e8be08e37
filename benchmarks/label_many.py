"""What an image costs among a million, against one among 60,000: `mnist-ocr label` of a folder.

    .venv/bin/python benchmarks/label_many.py --data-root data

The million are 17 folders of hard links to the 60,000 files: as many names to list, open and write
down, without the disk space; the contents of both are in the page cache. Both with the same
untrained MLP, since what may grow with the number of images is not the network's. The cost of an
image is the inverse of the steady rate (sides.py). The last line of stdout is JSON.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from sides import (
    Sides,
    Timeline,
    label,
    parse_arguments,
    read_digits,
    report,
    run_in_turn,
    write_images,
    write_untrained_mlp,
)

NUM_COPIES = 17


def main() -> None:
    arguments = parse_arguments(__doc__, SIDES)
    num_images = {"many": NUM_COPIES * arguments.num_images, "few": arguments.num_images}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "scans/00", arguments.data_root, arguments.num_images)
        link_copies(folder / "scans")
        write_untrained_mlp(folder / "model")
        runs = run_in_turn(SIDES, folder, arguments.rounds)
        digits = {side: read_digits(folder / side, num_images[side]) for side in SIDES}
        other_digits = int((digits["many"].reshape(NUM_COPIES, -1) != digits["few"]).sum())
    cost = [("images_per_s", "few", "many")]  # the inverse of seconds an image
    report(runs, cost, num_images=num_images, other_digits=other_digits)


def link_copies(folder: Path) -> None:
    """`folder/01` and so on, of the files in `folder/00`."""
    for i in range(1, NUM_COPIES):
        copy = folder / f"{i:02d}"
        copy.mkdir()
        for entry in os.scandir(folder / "00"):
            os.link(entry.path, copy / entry.name)


def run_many(folder: Path) -> Timeline:
    return label(folder / "scans", folder / "many", folder / "model")


def run_few(folder: Path) -> Timeline:
    return label(folder / "scans/00", folder / "few", folder / "model")


SIDES: Sides = {"many": run_many, "few": run_few}


if __name__ == "__main__":
    main()
