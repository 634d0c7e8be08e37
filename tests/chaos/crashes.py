"""Commands that die at a step of the crash table of docs/guarantees.md, and what they leave."""

import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from commands import start_command
from services import S3Server

from mnist_ocr import labels_uri
from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.storage import ObjectInfo, Store, open_store

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs/guarantees.md").read_text().partition("## The crash table")[2]
SHARD_SIZE = 40


def find_steps(who: str) -> list[tuple[str, str]]:
    """Steps of the table and who dies there, a pattern."""
    return re.findall(rf"^\| `([\w-]+)` \| ({who}) \|", TABLE, re.MULTILINE)


def make_folders(folder: Path, server: S3Server, images: np.ndarray) -> dict[str, str]:
    """A place on a disk, and one in a bucket of the same name, each with `scans/`."""
    places = {"disk": str(folder), "s3": f"s3://{folder.name}"}
    roots = {"disk": folder, "s3": server.make_bucket(folder.name)}
    for root in roots.values():
        (root / "scans").mkdir()
        for i, image in enumerate(images):
            data = cv2.imencode(".png", image)[1].tobytes()
            (root / f"scans/{i:03d}.png").write_bytes(data if i % 50 else data[:60])
    return places


def read_parts(store: Store) -> dict[ObjectInfo, pa.Table]:
    """What a reader finds in a folder, by file."""
    parts = [info for page in store.list("part-") for info in page]
    return {info: pq.read_table(pa.BufferReader(store.read(info.name))) for info in parts}


def read_table(output_uri: str) -> pa.Table:
    """The current rows, by id."""
    tables = read_parts(open_store(labels_uri(output_uri))).values()
    return pa.concat_tables(tables, promote_options="permissive").sort_by("id")


def config_for(
    folder: str, name: str, model_uri: str, *, scans: str = "scans", update: bool = False
) -> LabelConfig:
    return LabelConfig(
        f"{folder}/{scans}",
        f"{folder}/{name}",
        model_uri,
        num_gpus_per_actor=0.0,
        shard_size=SHARD_SIZE,
        update=update,
    )


def run_until(step: str, number: int, log: Path, *arguments: str) -> int:
    """The exit code of a command that dies when it gets to a step."""
    process = start_command([*arguments], log, {"MNIST_OCR_CRASH_AT": f"{step}:{number}"})
    process.join()
    return process.exitcode


def arguments_of(config: LabelConfig) -> list[str]:
    """The command line."""
    arguments = ["label", config.input_uri, config.output_uri, "--model-uri", str(config.model_uri)]
    arguments += ["--num-gpus-per-actor", "0", "--shard-size", str(SHARD_SIZE)]
    return arguments + ["--update"] * config.update


def copy_folder(old_uri: str, new_uri: str) -> None:
    """Through the store: the S3 server would not see what is copied behind its back."""
    old, new = open_store(old_uri), open_store(new_uri)
    for name in [info.name for page in old.list() for info in page]:
        new.write(name, old.read(name))
