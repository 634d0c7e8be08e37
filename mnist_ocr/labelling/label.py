"""`label(config)`: the whole labelling job, from its checks to `_SUCCESS`."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic

import ray
import ray.exceptions

from mnist_ocr.digits.batch import BLANK, OK
from mnist_ocr.digits.calibration import Calibration
from mnist_ocr.digits.classifier import NOT_A_DIGIT
from mnist_ocr.digits.model import load_model
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import JOB, Job, check_same_job, describe_job, read_job, write_job
from mnist_ocr.labelling.manifest import check_input, list_finished_shards, read_totals
from mnist_ocr.labelling.pipeline import label_shards
from mnist_ocr.labelling.report import Progress
from mnist_ocr.labelling.shards import Receipt, read_receipt
from mnist_ocr.labelling.sources import Source
from mnist_ocr.session import connect_ray
from mnist_ocr.storage import Store, is_local, open_store

logger = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """What a finished job did: the content of `_SUCCESS`."""

    output_uri: str
    job_id: str
    model_sha256: str
    versions: dict[str, str]
    num_images: int
    num_shards: int
    num_accepted: int
    statuses: dict[str, int]
    """Rows by status."""
    requests_per_image: float
    """Of reading the images, over all runs of the job."""
    num_images_this_run: int
    images_per_s: float
    """Of this run, from the start of the pipeline, the start of its workers included."""
    wall_s: float
    """Seconds of this run, from the first check on."""

    @property
    def error_rate(self) -> float:
        """Share of the rows whose status is neither ok, blank nor not_a_digit."""
        return count_errors(self.statuses) / self.num_images


def label(
    config: LabelConfig, on_progress: Callable[[Progress], None] = lambda progress: None
) -> LabelSummary:
    """Label every image of a folder or bucket, or what an earlier run of the job left over.

    Starts Ray on this machine unless the process is connected to a cluster, or `RAY_ADDRESS` names
    one.

    Raises:
        UsageError: the input, output or model cannot be used; mostly found before anything is
            written, and the same command resumes where not.
        StorageUnreachableError: a store does not answer; the same command resumes.
    """
    started = monotonic()
    source = open_source(config.input_uri, config.extensions)
    output = open_store(config.output_uri)
    model = load_model(config.model_uri)
    job, is_new = _find_job(describe_job(config, model, source, output), source, output)
    if not is_new and (summary := read_summary(output)):
        logger.info("%s is complete: nothing left to do.", output.uri)
        return replace(summary, num_images_this_run=0, wall_s=monotonic() - started)
    if job.threshold is None:
        logger.warning("%s", explain_no_threshold(config.max_risk, model.info.calibration))
    check_input(source)  # when resuming, too: a disk may not be mounted
    finished = [] if is_new else list_finished_shards(output)
    connect_ray()
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_actors, num_gpus_per_actor = plan_workers(config, cluster)
    if is_new:
        write_job(output, job)

    receipts = [read_receipt(output, shard) for shard in finished]
    num_before = sum(receipt.num_images for receipt in receipts)
    progress = Progress(num_done=num_before)
    labelling_started = monotonic()
    for receipt in _unwrap_errors(
        label_shards(
            job,
            model,
            frozenset(finished),
            num_actors=num_actors,
            num_gpus_per_actor=num_gpus_per_actor,
        )
    ):
        receipts.append(receipt)
        progress = Progress(
            num_done=progress.num_done + receipt.num_images,
            num_images=progress.num_images or (read_totals(output) or {}).get("num_images"),
            num_errors=progress.num_errors + count_errors(receipt.statuses),
        )
        on_progress(progress)
    seconds = monotonic() - labelling_started
    num_this_run = progress.num_done - num_before
    summary = LabelSummary(
        output_uri=output.uri,
        job_id=job.job_id,
        model_sha256=job.model_sha256,
        versions=job.versions,
        num_images=progress.num_done,
        num_shards=len(receipts),
        num_accepted=sum(receipt.num_accepted for receipt in receipts),
        statuses=dict(sum((Counter(r.statuses) for r in receipts), Counter())),
        requests_per_image=sum(r.num_requests for r in receipts) / progress.num_done,
        num_images_this_run=num_this_run,
        images_per_s=num_this_run / seconds,
        wall_s=monotonic() - started,
    )
    _check_whole(output, summary)
    output.write(SUCCESS, json.dumps(asdict(summary), indent=2).encode())
    return summary


def read_summary(output: Store) -> LabelSummary | None:
    """The content of `_SUCCESS`, or None while the job is unfinished.

    Raises:
        UsageError: it is damaged.
    """
    try:
        return LabelSummary(**json.loads(output.read(SUCCESS)))
    except ObjectError as error:
        if error.status != "missing":
            raise
        return None
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{output.uri_of(SUCCESS)} is damaged: {error}. Delete it and run label again."
        ) from error


def count_errors(statuses: Mapping[str, int]) -> int:
    """Rows whose status is neither ok, blank nor not_a_digit."""
    return sum(
        count for status, count in statuses.items() if status not in {OK, BLANK, NOT_A_DIGIT}
    )


def explain_no_threshold(max_risk: float, calibration: Calibration) -> str:
    """What a person should know where a model cannot promise a risk."""
    min_risk = calibration.min_risk
    remedy = f"pass --max-risk {min_risk:g} or more" if min_risk else "train on more images"
    return (
        "No row will be accepted: the images that the model was calibrated on are too few, or its "
        f"errors on them too many, to promise a risk of {max_risk:g}; {remedy}."
    )


def plan_workers(config: LabelConfig, cluster: Mapping[str, float]) -> tuple[int, float]:
    """How many actors predict, and each one's share of a GPU.

    Args:
        config: May set either.
        cluster: Ray's total resources: `CPU`, `GPU`, ...

    Raises:
        UsageError: the cluster has not what the config asks for; Ray would wait for ever.
    """
    num_cpus, num_gpus = int(cluster.get("CPU", 0)), cluster.get("GPU", 0.0)
    share = config.num_gpus_per_actor
    if share is None:
        share = 1.0 if num_gpus else 0.0
    if share > num_gpus:
        raise UsageError(
            f"num_gpus_per_actor is {share:g} and the Ray cluster has {num_gpus:g} GPUs. "
            "Start nodes with GPUs first, or pass 0 to label on CPUs."
        )
    room = int(num_gpus / share) if share else num_cpus
    if not room:
        raise UsageError("The Ray cluster has no CPUs. Start worker nodes first.")
    return min(config.num_actors or room, room), share


def _find_job(wanted: Job, source: Source, output: Store) -> tuple[Job, bool]:
    """The job on record, or the one wanted if the output is free for it; and whether it is new."""
    if source.holds(output.uri) or f"{source.uri}/".startswith(f"{output.uri}/"):
        raise UsageError(
            f"Input {source.uri} and output {output.uri} lie one in the other. "
            "Choose an output folder apart from the input."
        )
    if recorded := read_job(output):
        check_same_job(recorded, wanted)
        return replace(recorded, output_uri=output.uri), False
    if is_local(output.uri) and not Path(output.uri).exists():
        return wanted, True
    names = (info.name for page in output.list() for info in page)
    # "" is the marker of an S3 folder
    if foreign := next((name for name in names if name and not name.startswith(".")), None):
        raise UsageError(
            f"The output folder {output.uri} is in use: it holds {foreign} and no {JOB}. "
            "Choose an empty or new one."
        )
    return wanted, True


def _check_whole(output: Store, summary: LabelSummary) -> None:
    totals = read_totals(output) or {}
    found = {"num_shards": summary.num_shards, "num_images": summary.num_images}
    if totals != found:
        raise RuntimeError(
            f"The manifest of {output.uri} counts {totals}, the finished shards {found}. "
            "Run the same command again; if it stays so, this is a bug."
        )


def _unwrap_errors(receipts: Iterator[Receipt]) -> Iterator[Receipt]:
    """Raise a worker's error as itself, for the command to explain."""
    try:
        yield from receipts
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, (UsageError, ConnectionError, ObjectError)):
            raise
        cause.args = (str(cause).partition("\n")[0],)  # Ray Data adds how to make it retry
        raise cause from None
