"""What a person can set for `mnist-ocr doctor`."""

import re
from dataclasses import dataclass

from mnist_ocr.errors import UsageError


@dataclass(frozen=True)
class DoctorConfig:
    """Say what is wrong with this machine, a Ray cluster and the stores, and what to do about it.

    Tries what a job would do, on the driver and on every node: reads an object of the input, writes
    a file of its own to the output, reads it back and deletes it. Exit code 1 if there is a
    problem.

    Example: mnist-ocr doctor --address auto --input-uri s3://bucket/scans/
    """

    address: str | None = None
    """Of the Ray cluster: HOST:PORT, or auto for one that runs here; default RAY_ADDRESS, and
    without that only this machine is looked at. Starts no cluster."""
    input_uri: str | None = None
    """What would be labelled: a folder, archive, pattern or list, local or s3://."""
    output_uri: str | None = None
    """Folder that would be written to, local or s3://."""
    model_uri: str | None = None
    """A model directory, local or s3://; default the model that comes with mnist-ocr."""
    anonymous: bool = False
    """Sign no request for the input: a public bucket, no credentials."""
    timeout_s: float = 60
    """Seconds that a node may take to answer."""

    def __post_init__(self) -> None:
        """Check each value by itself."""
        if self.address and not re.fullmatch(r"auto|[\w.-]+:\d+|\[[\da-f:]+\]:\d+", self.address):
            raise UsageError(
                f"address is {self.address!r}: give HOST:PORT of the head, or auto. Where only the "
                "dashboard's port can be reached, submit it: ray job submit -- python "
                "jobs/doctor.py."
            )
        if not 1 <= self.timeout_s <= 3600:
            raise UsageError(f"timeout_s is {self.timeout_s:g}: give 1 to 3600.")
