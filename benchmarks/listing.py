"""The index of ten million objects in one flat prefix: seconds, requests, memory.

    .venv/bin/python benchmarks/listing.py

The bucket is simulated (`tests/simulated_store.py`): it computes its names, and answers a page of
1,000 after 0.1 s, a probe after a tenth of that, as S3 does. What is measured is the job's own
code, from the listing to the manifest shards on disk, in a process of its own; beside it a listing
without lanes, what the driver keeps of such a job, and how long a page of a real answer takes to
take apart. The last line of stdout is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from machine import describe_machine

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tests' bucket is this one's, too

from simulated_store import NumberedNames, SimulatedStore

MILLION = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-objects", type=int, default=10 * MILLION)
    parser.add_argument("--latency-s", type=float, default=0.1, help="that a page takes")
    parser.add_argument("--max-lanes", type=int, help="list in this process (internal)")
    arguments = parser.parse_args()
    if arguments.max_lanes:
        print(json.dumps(list_all(arguments.num_objects, arguments.latency_s, arguments.max_lanes)))
        return
    document = {
        "lanes": run_listing(arguments.num_objects, arguments.latency_s, max_lanes=32),
        "serial": run_listing(MILLION // 5, arguments.latency_s, max_lanes=1),
        "driver": measure_driver(arguments.num_objects),
        "page_ms": measure_page(),
        "latency_s": arguments.latency_s,
        **describe_machine(),
    }
    report(document)


def run_listing(num_objects: int, latency_s: float, max_lanes: int) -> dict[str, Any]:
    """`list_all` in a fresh process."""
    command = [sys.executable, __file__, "--num-objects", str(num_objects)]
    command += ["--latency-s", str(latency_s), "--max-lanes", str(max_lanes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=3600)
    return json.loads(done.stdout.splitlines()[-1])


def list_all(num_objects: int, latency_s: float, max_lanes: int) -> dict[str, Any]:
    """Seconds and peak memory at each million, and the requests of it all."""
    from mnist_ocr.labelling.folders import FolderSource
    from mnist_ocr.labelling.manifest import iterate_shards, size_of_shard
    from mnist_ocr.storage import open_store

    bucket = SimulatedStore(NumberedNames(num_objects), max_lanes=max_lanes, latency_s=latency_s)
    before_mb = peak_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    num_listed, marks, first_s = 0, [], 0.0
    with TemporaryDirectory() as folder:
        for shard in iterate_shards(FolderSource(bucket), open_store(folder), shard_size=8192):
            seconds = time.perf_counter() - started
            first_s = first_s or seconds
            num_listed = min(num_listed + size_of_shard(shard, 8192), num_objects)
            if num_listed >= (len(marks) + 1) * MILLION or num_listed == num_objects:
                marks.append({"objects": num_listed, "seconds": seconds, "peak_mb": peak_mb()})
    return {
        "first_shard_s": first_s,
        "seconds": marks[-1]["seconds"],
        "objects_per_s": num_objects / marks[-1]["seconds"],
        "cpu_us_per_object": (time.process_time() - cpu_started) * 1e6 / num_objects,
        "pages": bucket.num_pages,
        "probes": bucket.num_probes,
        "before_mb": before_mb,
        "marks": marks,
    }


def peak_mb() -> float:
    """Most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_driver(num_objects: int) -> dict[str, float]:
    """What the driver of a job keeps: a receipt per shard, numbers of shards, a monitor."""
    from mnist_ocr.labelling.manifest import ListingMonitor, shard_name
    from mnist_ocr.labelling.shards import Receipt
    from mnist_ocr.storage import open_store
    from mnist_ocr.traffic import Traffic

    num_shards = num_objects // 8192
    with TemporaryDirectory() as folder:
        output = open_store(folder)
        (Path(folder) / "_manifest").mkdir()
        for shard in range(num_shards):
            (Path(folder) / shard_name(shard)).touch()
        tracemalloc.start()
        kept: list[Any] = [
            Receipt(i, 8192, 8000, {"ok": 8100, "blank": 92}, Traffic(num_requests=8192))
            for i in range(num_shards)
        ]
        kept.append(frozenset(range(num_shards)))
        kept.append(ListingMonitor(output, 8192))
        started = time.perf_counter()
        kept[-1].look()
        first_look_s = time.perf_counter() - started
        started = time.perf_counter()
        kept[-1].look()
        look_s = time.perf_counter() - started
        kept_mb = tracemalloc.get_traced_memory()[0] / MILLION
        tracemalloc.stop()
    return {"kept_mb": kept_mb, "first_look_s": first_look_s, "look_s": look_s}


def measure_page() -> dict[str, float]:
    """Milliseconds of CPU that an answer of 1,000 keys takes, by botocore alone and by ours."""
    import botocore.session
    from botocore.awsrequest import AWSResponse

    from mnist_ocr.s3_listing import read_page, take_out_contents

    contents = "".join(
        f"<Contents><Key>scans/2026/img_{i:08d}.png</Key><LastModified>2026-11-21T12:34:56.000Z"
        f"</LastModified><ETag>&quot;{i:032x}&quot;</ETag><Size>300</Size><StorageClass>STANDARD"
        "</StorageClass></Contents>"
        for i in range(1000)
    )
    body = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
        f"<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{contents}"
        "</ListBucketResult>"
    ).encode()

    class Raw:
        def stream(self, *_: object, **__: object) -> list[bytes]:
            return [body]

    found = {}
    for side in ("botocore", "mnist-ocr"):
        client = botocore.session.Session().create_client(
            "s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        client.meta.events.register(
            "before-send.s3.ListObjectsV2",
            lambda request, **_: AWSResponse(request.url, 200, {}, Raw()),
        )
        if side == "mnist-ocr":
            take_out_contents(client)
        times = []
        for _ in range(50):
            started = time.process_time()
            assert len(read_page(client.list_objects_v2(Bucket="b"), skip=6)) == 1000
            times.append(time.process_time() - started)
        found[side] = min(times) * 1000
    return found


def report(document: dict[str, Any]) -> None:
    """A table for people, a line of JSON for programs."""
    lanes, serial = document["lanes"], document["serial"]
    print("| objects | seconds | objects/s of the last million | peak MB |")
    print("|---|---|---|---|")
    last = {"objects": 0, "seconds": 0.0}
    for mark in lanes["marks"]:
        rate = (mark["objects"] - last["objects"]) / (mark["seconds"] - last["seconds"])
        print(
            f"| {mark['objects']:,} | {mark['seconds']:.1f} | {rate:,.0f} | {mark['peak_mb']:.0f} |"
        )
        last = mark
    print(f"without lanes: {serial['objects_per_s']:,.0f} objects/s")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
