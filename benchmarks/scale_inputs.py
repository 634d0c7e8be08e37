"""What the cluster model is asked: inputs, mixes of machines, and what an image costs.

Seconds are of a core of the machine of the README's labelling tables, two cores of an AMD EPYC
(Zen 5); a vCPU is taken for such a core, as `mnist-ocr plan` does. The job is `plan`'s `Workload`,
summed up by `plan`'s code from a sample's costs, only that the sample was taken once and is here.
"""

from collections import Counter

from scale_cluster import Fleet

from mnist_ocr.labelling.census import Kind
from mnist_ocr.labelling.config import PackConfig
from mnist_ocr.labelling.inventory import Inventory
from mnist_ocr.labelling.limits import S3_GET_CORE_S, S3_LATENCY_S, Workload
from mnist_ocr.labelling.measuring import Cost, Measurement
from mnist_ocr.labelling.packed_files import ROW_GROUP_SIZE
from mnist_ocr.labelling.plan import sum_up
from mnist_ocr.labelling.range_reader import CHUNK_BYTES
from mnist_ocr.labelling.reading import MAX_SPAN_BYTES
from mnist_ocr.pacing import MAX_IN_FLIGHT

MILLION, BILLION = 1e6, 1e9

LOOSE, TAR, PARQUET = "objects", "tar", "Parquet"

DECODE_S, PREDICT_S, WRITE_S = 26e-6, 103e-6, 5.8e-6
"""`mnist-ocr plan` of MNIST's digits as PNG files, with the shipped network: README."""

FETCH_S = {LOOSE: S3_GET_CORE_S, TAR: 4.2e-6, PARQUET: 18e-6}
"""`mnist-ocr plan` of 60,000 of them in two archives on a local disk, beside much other work."""

LIST_S = {LOOSE: 3.7e-6, TAR: 7.4e-6, PARQUET: 2.4e-6}
"""Beside the row of the manifest (`plan.WRITE_ROW_CORE_S`). Objects: benchmarks/listing.py, with
real pages taken apart; archives: as above."""

IMAGE_BYTES = {LOOSE: 342, TAR: 1024, PARQUET: 361}
"""With what a tar puts around each member."""

IMAGES_PER_ARCHIVE = PackConfig.shard_size

STREAM_BYTES_PER_S = 80e6
"""That S3 gives to one request: "85-90 MB/s" (S3 user guide, "Performance design patterns")."""

MIXES = {
    "CPU spot": [Fleet("c7i.2xlarge", 2)],
    "GPU spot": [Fleet("g6.xlarge", 1)],
    "CPU on demand": [Fleet("c7i.2xlarge", 2, is_spot=False)],
}
"""For one job: more nodes do not speed it up."""

SIZES = {
    "1M": (MILLION, 1),
    "100M": (100 * MILLION, 4),
    "10B": (10 * BILLION, 64),
}
"""Images, and the jobs that they are split into, each a cluster and a prefix of its own."""

USD_PER_MILLION_PAGES = 1500.0
"""What OCR services of the large clouds ask for a million pages, roughly: $1.50 for 1,000."""


def build_work(form: str, num_images: float, num_prefixes: int = 1) -> Workload:
    """The job, as `plan` would sum it up."""
    is_archive = form != LOOSE
    kind = Kind(
        ending={LOOSE: ".png", TAR: ".tar", PARQUET: ".parquet"}[form],
        num_objects=num_images / (IMAGES_PER_ARCHIVE if is_archive else 1),
        size_bytes=num_images * IMAGE_BYTES[form],
        num_images=num_images,
        is_archive=is_archive,
        num_in_stream=ROW_GROUP_SIZE if form == PARQUET else 0,
    )
    wait_s = S3_LATENCY_S / MAX_IN_FLIGHT
    if is_archive:
        request_bytes = CHUNK_BYTES if form == PARQUET else MAX_SPAN_BYTES
        wait_s = time_request(request_bytes) * IMAGE_BYTES[form] / request_bytes
    cost = Cost(FETCH_S[form], wait_s, S3_LATENCY_S, DECODE_S, PREDICT_S, WRITE_S)
    measured = Measurement(cost, Counter(PNG=1), IMAGE_BYTES[form])
    inventory = Inventory([kind], 0.0, 0, num_prefixes, num_images * LIST_S[form])
    return sum_up(inventory, [kind], [measured], is_on_s3=True)


def time_request(size_bytes: float) -> float:
    """Seconds until S3 has sent so many bytes of an object."""
    return S3_LATENCY_S + size_bytes / STREAM_BYTES_PER_S


def time_listing(form: str, work: Workload) -> float:
    """Seconds of waiting for the listing's answers, one after the other.

    A tar has to be read to be listed, Parquet has a footer.
    """
    pages_s = work.num_lists * S3_LATENCY_S
    if form == LOOSE:
        return pages_s
    num_archives = work.num_images / IMAGES_PER_ARCHIVE
    num_bytes = IMAGES_PER_ARCHIVE * IMAGE_BYTES[form] if form == TAR else 0
    return pages_s + num_archives * (S3_LATENCY_S + time_request(num_bytes))
