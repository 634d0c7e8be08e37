"""`mnist-ocr verify` on millions of rows: rows a second, and whether memory stays flat.

    .venv/bin/python benchmarks/verify.py

Two outputs, one with three times the rows of the other, are written with the job's own writers
(the bucket that is listed is simulated, the predictions are random), and each is verified in a
process of its own, from warm files on a local disk. Beside it what a part's checksum costs a worker
that labels. The last line of stdout is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from machine import describe_machine

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tests' bucket is this one's, too

from simulated_store import NumberedNames, SimulatedStore

from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.job import Job, write_job
from mnist_ocr.labelling.manifest import iterate_shards
from mnist_ocr.labelling.manifest_shard import read_shard
from mnist_ocr.labelling.predictions import build_table, decode_table, encode_table
from mnist_ocr.labelling.shards import write_predictions
from mnist_ocr.labelling.summary import LabelSummary, add_up, write_summary
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import Store, open_store
from mnist_ocr.traffic import Traffic

SHARD_SIZE, THRESHOLD = 8192, 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-rows", type=int, default=300 * SHARD_SIZE)
    parser.add_argument("--output-uri", help="verify this, in this process (internal)")
    arguments = parser.parse_args()
    if arguments.output_uri:
        print(json.dumps(verify_output(arguments.output_uri)))
        return
    document = {
        "runs": [run(arguments.num_rows // 3), run(arguments.num_rows)],
        "checksum": measure_checksum(),
        **describe_machine(),
    }
    print("| rows | files | MB | seconds | rows/s | us of CPU a row | peak MB, imports apart |")
    print("|---|---|---|---|---|---|---|")
    for row in document["runs"]:
        print(
            f"| {row['num_rows']:,} | {row['num_files']:,} | {row['num_bytes'] / 1e6:,.0f} "
            f"| {row['seconds']:.1f} | {row['rows_per_s']:,.0f} "
            f"| {row['cpu_us_per_row']:.2f} | {row['peak_mb'] - row['before_mb']:.0f} |"
        )
    print(json.dumps(document))


def run(num_rows: int) -> dict[str, Any]:
    """Write an output, and verify it in a fresh process."""
    with TemporaryDirectory() as folder:
        write_output(open_store(folder), num_rows)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        command = [sys.executable, __file__, "--output-uri", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=3600)
        found = json.loads(done.stdout.splitlines()[-1])
        num_bytes = sum(path.stat().st_size for path in files)
    return {**found, "num_files": len(files), "num_bytes": num_bytes}


def write_output(output: Store, num_rows: int) -> None:
    """A finished job of random predictions."""
    source = FolderSource(SimulatedStore(NumberedNames(num_rows), max_lanes=32, latency_s=0))
    job = Job(
        job_id="benchmark",
        input_uri=source.uri,
        output_uri=output.uri,
        extensions=(),
        anonymous=False,
        shard_size=SHARD_SIZE,
        max_risk=0.001,
        threshold=THRESHOLD,
        model_sha256="0" * 64,
        preprocessing_version=1,
        versions={"mnist-ocr": "0"},
    )
    write_job(output, job)
    receipts = []
    for shard in iterate_shards(source, output, shard_size=SHARD_SIZE):
        manifest = read_shard(output, shard)
        predictions = draw_predictions(len(manifest.table), seed=shard)
        receipts.append(write_predictions(output, job, shard, manifest, predictions, Traffic()))
    times = RunTimes(seconds={}, wall_s=1.0, num_cpus=1, num_gpus=0, num_images=num_rows)
    summary = LabelSummary(
        **add_up(job, [], receipts, times, wall_s=1.0),
        model_sha256=job.model_sha256,
        num_accepted=sum(receipt.num_accepted for receipt in receipts),
    )
    write_summary(output, summary)


def draw_predictions(num_rows: int, seed: int) -> Predictions:
    """Some sure, some not, as incompressible as real ones."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(10, 0.05), num_rows).astype(np.float32)
    confidence = probabilities.max(axis=1)
    return Predictions.build(probabilities, confidence, ["ok"] * num_rows, [None] * num_rows)


def verify_output(output_uri: str) -> dict[str, Any]:
    """Seconds and memory of a verification that finds nothing."""
    before_mb = peak_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    verification = verify(VerifyConfig(output_uri))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    assert not verification.problems, verification.problems
    return {
        "num_rows": verification.num_images,
        "seconds": seconds,
        "rows_per_s": verification.num_images / seconds,
        "cpu_us_per_row": cpu_s * 1e6 / verification.num_images,
        "before_mb": before_mb,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Most memory that this process has had, in MB; `ru_maxrss` would be its parent's, if more."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure_checksum() -> dict[str, float]:
    """Milliseconds for a part of 8,192 rows."""
    import hashlib

    import pyarrow as pa

    ids = pa.chunked_array([pa.array(range(SHARD_SIZE), pa.int64())])
    names = NumberedNames(SHARD_SIZE)[:]
    paths = pa.chunked_array([[f"s3://bucket/scans/2026/{name}" for name in names]])
    table = build_table(ids, paths, draw_predictions(SHARD_SIZE, 0), THRESHOLD)
    data = encode_table(table, {})
    return {
        "encode_ms": time_ms(lambda: encode_table(table, {})),
        "sha256_ms": time_ms(lambda: hashlib.sha256(data).digest()),
        "decode_ms": time_ms(lambda: decode_table(data)),
        "num_bytes": len(data),
    }


def time_ms(call: Any) -> float:
    """The median of 30."""
    times = []
    for _ in range(30):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3


if __name__ == "__main__":
    main()
