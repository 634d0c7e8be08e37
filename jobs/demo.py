"""The whole job on digits that come with scikit-learn: train, label, verify. `make demo` runs it.

1,000 of the 1,797 scans train and calibrate a small network with Ray Train; the other 797 become
PNG files, which Ray Data labels. Everything is written to a new folder under demo/.
"""

import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import pyarrow.dataset as ds

from mnist_ocr.cli import run_or_exit
from mnist_ocr.labelling.config import LabelConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.report import ProgressDisplay
from mnist_ocr.labelling.verification import verify
from mnist_ocr.training.config import TrainConfig
from mnist_ocr.training.datasets import load_digit_pages
from mnist_ocr.training.trainer import train

MAX_RISK = 0.05
"""Of accepted labels that are wrong; 200 validation images cannot promise much less."""


def demo() -> int:
    """Run the four steps and print what came of them."""
    folder = Path("demo", datetime.now().strftime("%Y%m%d-%H%M%S"))
    scans, model, output = folder / "scans", folder / "model", folder / "labels"
    truth = write_scans(scans)
    print(f"1/4 wrote {len(truth)} scanned digits as PNG files to {scans}")
    print("2/4 training on the other 1,000 with Ray Train")
    trained = train(TrainConfig(dataset="digits", recipe="cnn", model_uri=str(model)))
    print(f"3/4 labelling {scans} with Ray Data")
    with ProgressDisplay(sys.stderr) as display:
        config = LabelConfig(str(scans), str(output), str(model), max_risk=MAX_RISK)
        summary = label(config, display.update)
    verification = verify(VerifyConfig(str(output)))
    verdict = "; ".join(verification.problems) or "every file has exactly one row"
    print(f"4/4 verified: {verdict}\n")

    rows = ds.dataset(output).to_table().to_pylist()
    num_right = sum(row["digit"] == truth[row["path"]] for row in rows)
    accepted = [row for row in rows if row["accepted"]]
    num_accepted_right = sum(row["digit"] == truth[row["path"]] for row in accepted)
    print_rows(rows[:: len(rows) // 5][:5], truth)
    print(f"\naccuracy       {num_right / len(rows):.2%} of {len(rows)} images")
    print(f"  if accepted  {num_accepted_right / max(1, len(accepted)):.2%} of {len(accepted)}")
    print(f"training       {trained.images_per_s:,.0f} images/s")
    print(f"labelling      {summary.images_per_s:,.0f} images/s, nearly all of it start-up")
    print(f"Parquet        {output}  (pandas.read_parquet takes the folder)")
    print(json.dumps({**asdict(summary), "accuracy": num_right / len(rows)}))
    return 1 if verification.num_problems else 0


def write_scans(folder: Path) -> dict[str, int]:
    """Write the test scans as 8x8 PNG files, dark on light; returns the digits by path."""
    folder.mkdir(parents=True)
    truth = {}
    pages, digits = load_digit_pages()["test"]
    for i, (page, digit) in enumerate(zip(pages, digits.tolist(), strict=True)):
        path = folder.absolute() / f"{i:04d}.png"
        path.write_bytes(cv2.imencode(".png", 255 - page)[1].tobytes())
        truth[str(path)] = digit
    return truth


def print_rows(rows: list[dict[str, Any]], truth: dict[str, int]) -> None:
    """A few rows as a table, with the digit that was written beside the one that was read."""
    print(f"{'id':>5}  {'path':<12} {'digit':>5} {'confidence':>10} {'accepted':>8}  status  truth")
    for row in rows:
        path = str(row["path"])
        print(
            f"{row['id']:>5}  {Path(path).name:<12} {row['digit']:>5} "
            f"{row['confidence']:>10.4f} {row['accepted']!s:>8}  {row['status']:<6}"
            f"  {truth[path]}"
        )


if __name__ == "__main__":
    run_or_exit(demo)
