"""`mnist-ocr label` of 60,000 small PNG files: the code as it is against that of another commit.

    .venv/bin/python benchmarks/commits.py --before a8228aa --data-root data

Both with the same untrained MLP, which costs next to nothing: what a change adds to the rest shows.
Alternated, each in fresh processes. What a rate is: sides.py. The last line of stdout is JSON.
"""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

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
    write_untrained_mlp,
)


def main() -> None:
    arguments = parse_arguments(__doc__, SIDES, before=("HEAD~1", "the other commit"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        command = ["git", "-C", str(ROOT), "archive", arguments.before, "mnist_ocr"]
        archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        (folder / "code").mkdir()
        subprocess.run(["tar", "-x", "-C", str(folder / "code")], check=True, input=archive)
        write_images(folder / "scans", arguments.data_root, arguments.num_images)
        write_untrained_mlp(folder / "model")
        runs = run_in_turn(SIDES, folder, arguments.rounds)
        other_digits = count_other_digits(folder, SIDES, arguments.num_images)
    report(runs, before=arguments.before, num_images=arguments.num_images, others=other_digits)


def run_now(folder: Path) -> Timeline:
    return label(folder / "scans", folder / "now", folder / "model")


def run_before(folder: Path) -> Timeline:
    os.environ["PYTHONPATH"] = str(folder / "code")
    return label(folder / "scans", folder / "before", folder / "model")


SIDES: Sides = {"now": run_now, "before": run_before}


if __name__ == "__main__":
    main()
