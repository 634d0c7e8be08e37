"""What a shard costs the head node: the pipeline of a labelling job with actors that do nothing.

    .venv/bin/python benchmarks/scale_head.py

Shard numbers pass through Ray Data as in a job on CPUs (`dataflow.py`: the task that lists, the
counter of attempts, a pool of actors, receipts on the driver), only nothing is read, predicted or
written. So what is left is what runs on a cluster's head: seconds of CPU of the driver, of Ray's
own processes and of the counter, and the driver's memory, by number of actors. Seconds of CPU, not
of the clock, since here all actors share the cores. `limits.py` holds what came out.
The last line of stdout is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psutil
from machine import describe_machine

HEAD_ROLES = ("driver", "gcs_server", "counter")
"""What runs on the head only. A worker node has a raylet of its own."""

MEASURE_FROM = 0.2
"""Share of the shards after which the actors have started, and are not in the figures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-shards", type=int, default=3000)
    parser.add_argument("--num-actors", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--here", action="store_true", help="run in this process (internal)")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(run(arguments.num_shards, arguments.num_actors[0])))
        return
    found = {}
    print("| actors | shards/s | ms of a core a shard: driver | GCS | counter | raylet | KB |")
    print("|---|---|---|---|---|---|---|")
    for num_actors in arguments.num_actors:
        command = [sys.executable, __file__, "--here", "--num-actors", str(num_actors)]
        command += ["--num-shards", str(arguments.num_shards)]
        env = {**os.environ, "RAY_ADDRESS": "local"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
        one = found[num_actors] = json.loads(done.stdout.splitlines()[-1])
        roles = " | ".join(f"{one['core_ms'][role]:.1f}" for role in (*HEAD_ROLES, "raylet"))
        print(f"| {num_actors} | {one['shards_per_s']:.0f} | {roles} | {one['driver_kb']:.1f} |")
    print(json.dumps({"num_shards": arguments.num_shards, "runs": found, **describe_machine()}))


def run(num_shards: int, num_actors: int) -> dict[str, Any]:
    """All shards through a pool: ms of CPU a shard by role, KB of the driver a shard."""
    from mnist_ocr.labelling.dataflow import run_shards
    from mnist_ocr.labelling.shards import Receipt
    from mnist_ocr.session import connect_ray

    with TemporaryDirectory() as name:
        write_manifest(Path(name), num_shards)
        job = SimpleNamespace(
            input_uri=name, extensions=(), anonymous=False, output_uri=name, shard_size=8192
        )
        connect_ray()
        build = partial(_add_stage, num_actors=num_actors)
        receipts, looks = [], []
        looks_at = {int(num_shards * MEASURE_FROM), num_shards - 2 * num_actors}
        for receipt in run_shards(job, frozenset(), Counter(), build, Receipt.decode):
            receipts.append(receipt)
            if len(receipts) in looks_at:
                looks.append((len(receipts), time.monotonic(), *look()))
    (first, began, spent_before, kb_before), (last, ended, spent, kb) = looks
    count = last - first
    return {
        "shards_per_s": count / (ended - began),
        "core_ms": {role: (spent[role] - spent_before[role]) * 1e3 / count for role in spent},
        "driver_kb": (kb - kb_before) / count,
    }


def write_manifest(folder: Path, num_shards: int) -> None:
    """The names of a listing that has ended: the job looks at no more of them here."""
    (folder / "_manifest").mkdir()
    for shard in range(num_shards):
        (folder / f"_manifest/{shard:08d}.arrow").touch()
    totals = {"num_shards": num_shards, "num_images": num_shards * 8192}
    (folder / "_manifest/complete.json").write_text(json.dumps(totals))


def _add_stage(shards: Any, counter: Any, num_actors: int) -> Any:
    from mnist_ocr.labelling.attempts import count_attempt
    from mnist_ocr.labelling.dataflow import actors, receipt_row, start_watch, value
    from mnist_ocr.labelling.shards import Receipt
    from mnist_ocr.traffic import Traffic

    class IdleLabeller:
        """A shard number in, a receipt out."""

        def __call__(self, row: Any) -> Any:
            shard = value(row, "shard")
            count_attempt(counter, shard)
            latencies = Counter(dict.fromkeys(range(12), 8192 // 12))
            traffic = Traffic(num_requests=8192, num_bytes=1 << 22, latencies=latencies)
            receipt = Receipt(shard, 8192, 8000, {"ok": 8100, "blank": 92}, traffic)
            return receipt_row(receipt, start_watch(row))

    return shards.map_batches(IdleLabeller, num_cpus=0, **actors(num_actors))


def look() -> tuple[Counter[str], float]:
    """Seconds of CPU so far by role, and KB that the driver shares with no other process."""
    spent = Counter[str]()
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            times = process.cpu_times()
            spent[name_role(process, own.pid)] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return spent, own.memory_full_info().uss / 1e3


def name_role(process: psutil.Process, driver: int) -> str:
    """Who a process is."""
    command = " ".join(process.cmdline())
    if process.pid == driver:
        return "driver"
    for part, role in (("gcs_server", "gcs_server"), ("raylet/raylet", "raylet")):
        if part in command.split(" ")[0]:
            return role
    return "counter" if "AttemptCounter" in command else "workers"


if __name__ == "__main__":
    main()
