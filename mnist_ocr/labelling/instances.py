"""EC2 instances to estimate for, and S3's prices.

Prices are list prices of us-east-1 for Linux in US dollars, as tables of 2026 give them: they
differ by region and change. `--usd-per-hour` overrides an instance's.
"""

from typing import Final, NamedTuple

from mnist_ocr.errors import UsageError


class Instance(NamedTuple):
    """A type of EC2 instance."""

    num_cpus: int
    """vCPUs: half a core of c7i and g6, which run two threads on each; a core of c7a and c7g."""
    num_gpus: int
    gbit_per_s: float
    """Network bandwidth that it always has; smaller types may have more for minutes."""
    usd_per_hour: float
    """On demand, approximately."""
    images_per_s_per_gpu: float = 0
    """That the shipped network reads. Assumed, not measured: 6% of an L4's and an A10G's peak in
    float32, 11% of a T4's, at 17 million operations an image. Half where two views differ."""


INSTANCES: Final = {
    "c7i.2xlarge": Instance(8, 0, 3.1, 0.357),
    "c7i.8xlarge": Instance(32, 0, 12.5, 1.428),
    "c7a.8xlarge": Instance(32, 0, 12.5, 1.642),
    "c7g.8xlarge": Instance(32, 0, 15, 1.16),
    "g4dn.xlarge": Instance(4, 1, 5, 0.526, 50_000),
    "g5.xlarge": Instance(4, 1, 2.5, 1.006, 100_000),
    "g6.xlarge": Instance(4, 1, 2.5, 0.805, 100_000),
    "g6.8xlarge": Instance(32, 1, 25, 2.014, 100_000),
    "m7i.large": Instance(2, 0, 0.78, 0.1008),
    "m7i.2xlarge": Instance(8, 0, 3.1, 0.4032),
}
"""Sizes as on https://aws.amazon.com/ec2/instance-types/, bandwidths approximately."""

PRICES_OF: Final = "us-east-1, 2026"
"""Where and when the prices in this module held, approximately."""

SPOT_SHARE: Final = 0.5
"""What spot instances often cost of the price on demand: 0.38 to 0.56 in the example of the EC2
Auto Scaling guide ("Spot price per unit hour example"); changes by the hour."""

USD_PER_GET: Final = 0.0004 / 1000
USD_PER_PUT_OR_LIST: Final = 0.005 / 1000
"""S3 Standard, https://aws.amazon.com/s3/pricing/. To instances in its region data is free."""

GETS_PER_PREFIX_AND_S: Final = 5500
"""What S3 gives at least for each partitioned prefix (S3 user guide, "Optimizing performance")."""


def find_instance(name: str) -> Instance:
    """A type by its name.

    Raises:
        UsageError: it is not in the table.
    """
    if name not in INSTANCES:
        raise UsageError(f"instance_type is {name!r}: give one of {', '.join(INSTANCES)}.")
    return INSTANCES[name]
