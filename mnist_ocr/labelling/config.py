"""What a person can set for `mnist-ocr label` and the commands around it."""

from dataclasses import dataclass
from typing import Literal

from mnist_ocr.errors import UsageError

MAX_SHARD_SIZE = 65536
"""Images: 51 MB as uint8, below the 128 MiB at which Ray Data would split a block."""

Change = Literal["update", "relabel"]
"""What a new generation is for."""


@dataclass(frozen=True)
class LabelConfig:
    """Label every image of a folder or bucket: Parquet, one row per object, resumable.

    Example: mnist-ocr label s3://bucket/scans/ s3://bucket/labels/ --max-risk 0.01
    """

    input_uri: str
    """Folder of images, local or s3://bucket/prefix; every object below it gets a row. Archives
    (tar, tar.gz, zip, Parquet, idx) count as folders, and may be the input themselves. Or a
    pattern: 's3://bucket/2026-*/crops/*.png', ** for folders at any depth. Or a list of URIs: .txt,
    .csv, .parquet, or an S3 Inventory's manifest.json."""
    output_uri: str
    """Folder for the Parquet files, local or s3://; the same command resumes what is there."""
    model_uri: str | None = None
    """A model directory that `mnist-ocr train` has written, local or s3://; default the model that
    comes with mnist-ocr."""
    max_risk: float = 0.001
    """With 95% confidence at most this share of the `accepted` labels is wrong, on images like
    those that the model was calibrated on; no row is accepted if they do not bear it out."""
    extensions: tuple[str, ...] = ()
    """Only objects that end so, e.g. .png .jpg; none given: every object."""
    anonymous: bool = False
    """Sign no request for the input: a public bucket, no credentials."""
    num_actors: int | None = None
    """Workers that label; default one per CPU, or as many as the GPUs hold."""
    num_gpus_per_actor: float | None = None
    """GPU share of a worker, e.g. 0.5; default 1 if the cluster has GPUs, down to 0.25 from 32
    cores a GPU on, and 0 if it has none."""
    shard_size: int = 8192
    """Most images per Parquet file, the unit of work and of resuming; the first are smaller."""
    max_error_rate: float | None = None
    """Exit with 3 if a larger share of the rows are errors: not ok, blank or not_a_digit."""
    update: bool = False
    """If the output is finished: list the input again, and label what is new or has changed, in a
    new generation that takes the other rows over; readers see the old one until it is finished."""
    relabel: bool = False
    """If the output is of another model or other settings: label everything anew, in a new
    generation; readers see the old one until it is finished."""

    def __post_init__(self) -> None:
        """Check each value by itself."""
        if self.update and self.relabel:
            raise UsageError(
                "update and relabel are both given: pass update for what is new or has "
                "changed, or relabel for everything anew."
            )
        if not 0 < self.max_risk < 1:
            raise UsageError(f"max_risk is {self.max_risk}: give one between 0 and 1.")
        _check_num_actors(self.num_actors)
        _check_gpu_share(self.num_gpus_per_actor)
        _check_shard_size(self.shard_size)
        _check_error_rate(self.max_error_rate)

    @property
    def change(self) -> Change | None:
        """What a new generation may be begun for; None to go on with the current one."""
        return "update" if self.update else "relabel" if self.relabel else None


@dataclass(frozen=True)
class RetryConfig:
    """Redo the rows of some statuses, in a new generation that takes the other rows over.

    Each object is looked up first, and read as it is now. The input is not listed.

    Example: mnist-ocr retry s3://bucket/labels/ --status throttled,missing
    """

    output_uri: str
    """Finished output of `mnist-ocr label`, local or s3://."""
    status: str = "changed,forbidden,missing,throttled,unreadable"
    """Statuses of the rows to redo, with commas between."""
    model_uri: str | None = None
    """The model that the output was labelled with; default the one that comes with mnist-ocr."""
    anonymous: bool = False
    """Sign no request for the input, as of `label`."""
    num_actors: int | None = None
    """Workers that label, as of `label`."""
    num_gpus_per_actor: float | None = None
    """GPU share of a worker, as of `label`."""
    max_error_rate: float | None = None
    """Exit with 3 if a larger share of all rows are errors: not ok, blank or not_a_digit."""

    def __post_init__(self) -> None:
        """Check each value by itself."""
        _check_num_actors(self.num_actors)
        _check_gpu_share(self.num_gpus_per_actor)
        _check_error_rate(self.max_error_rate)


@dataclass(frozen=True)
class PruneConfig:
    """Delete every generation of an output but the current one, unfinished ones, too.

    Example: mnist-ocr prune s3://bucket/labels/ --dry-run
    """

    output_uri: str
    """Output of `mnist-ocr label`, local or s3://."""
    dry_run: bool = False
    """Say what would be deleted, and delete nothing."""


@dataclass(frozen=True)
class PlanConfig:
    """Say what labelling would take, hours and dollars, and what would limit it: a dry run.

    Lists or samples the input, reads a few objects of each kind, and times on them what a worker
    does. Writes nothing.

    Example: mnist-ocr plan s3://bucket/scans/ --instance-type g6.xlarge --num-instances 8
    """

    input_uri: str
    """What `label` would read: a folder, archive, pattern or list, local or s3://."""
    model_uri: str | None = None
    """A model directory, local or s3://; default the model that comes with mnist-ocr."""
    extensions: tuple[str, ...] = ()
    """Only objects that end so, e.g. .png .jpg; none given: every object."""
    anonymous: bool = False
    """Sign no request for the input: a public bucket, no credentials."""
    instance_type: str = "c7i.8xlarge"
    """EC2 instances to estimate for, beside this cluster."""
    num_instances: int = 4
    """How many of them."""
    usd_per_hour: float | None = None
    """What one of them costs; default an approximate list price of us-east-1."""
    max_objects: int = 100_000
    """So many objects are listed one by one; what lies behind them on S3 is estimated."""

    def __post_init__(self) -> None:
        """Check each value by itself."""
        if self.num_instances < 1:
            raise UsageError(f"num_instances is {self.num_instances}: give 1 or more.")
        if self.usd_per_hour is not None and self.usd_per_hour < 0:
            raise UsageError(f"usd_per_hour is {self.usd_per_hour}: give 0 or more.")
        if self.max_objects < 1:
            raise UsageError(f"max_objects is {self.max_objects}: give 1 or more.")


@dataclass(frozen=True)
class VerifyConfig:
    """Prove a labelling job whole: every listed object in exactly one row, and nothing else.

    Reads every file once. Exit code 1 if something is missing, damaged, foreign or unfinished; each
    problem says what to do, and the last line of stdout is JSON with num_problems and problems.

    Example: mnist-ocr verify s3://bucket/labels/
    """

    output_uri: str
    """Output of `mnist-ocr label`, local or s3://."""


@dataclass(frozen=True)
class PackConfig:
    """Copy millions of objects into few tar or Parquet files, which take few requests to read.

    Example: mnist-ocr pack s3://bucket/scans/ s3://bucket/packed/
    """

    input_uri: str
    """What to pack: whatever `mnist-ocr label` takes."""
    output_uri: str
    """Folder, local or s3://, that gets shards/, the files, and errors/, what is in none of them;
    the same command resumes what is there."""
    extensions: tuple[str, ...] = ()
    """Only objects that end so, e.g. .png .jpg; none given: every object."""
    anonymous: bool = False
    """Sign no request for the input: a public bucket, no credentials."""
    format: Literal["tar", "parquet"] = "tar"
    """tar, as WebDataset reads it, or Parquet with the columns path and image."""
    num_actors: int | None = None
    """Workers that copy; default one per CPU."""
    shard_size: int = 32768
    """Most images per file, the unit of work and of resuming; the first are smaller, and images
    that have over 64 MiB together are split."""

    def __post_init__(self) -> None:
        """Check each value by itself."""
        _check_num_actors(self.num_actors)
        _check_shard_size(self.shard_size)


def _check_num_actors(num_actors: int | None) -> None:
    if num_actors is not None and num_actors < 1:
        raise UsageError(f"num_actors is {num_actors}: give 1 or more.")


def _check_gpu_share(num_gpus_per_actor: float | None) -> None:
    if num_gpus_per_actor is not None and not 0 <= num_gpus_per_actor <= 1:
        raise UsageError(f"num_gpus_per_actor is {num_gpus_per_actor}: give 0 to 1.")


def _check_error_rate(max_error_rate: float | None) -> None:
    if max_error_rate is not None and not 0 <= max_error_rate <= 1:
        raise UsageError(f"max_error_rate is {max_error_rate}: give one from 0 to 1.")


def _check_shard_size(shard_size: int) -> None:
    if not 1 <= shard_size <= MAX_SHARD_SIZE:
        raise UsageError(f"shard_size is {shard_size}: give 1 to {MAX_SHARD_SIZE}.")
