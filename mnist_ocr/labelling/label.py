"""`label(config)`: the whole labelling job, from its checks to `_SUCCESS`."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

import ray

from mnist_ocr.crash import crash_point
from mnist_ocr.digits.calibration import Calibration
from mnist_ocr.digits.model import Model, load_model
from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.dataflow import follow, plan_workers
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import Job, describe_job, find_job, write_job
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.manifest import (
    ListingMonitor,
    check_finished,
    check_input,
    list_finished_shards,
)
from mnist_ocr.labelling.pipeline import label_shards
from mnist_ocr.labelling.report import Progress
from mnist_ocr.labelling.shards import read_receipts
from mnist_ocr.labelling.summary import LabelSummary, add_up, read_summary, write_summary
from mnist_ocr.session import connect_ray
from mnist_ocr.storage import Store, open_store

logger = logging.getLogger(__name__)


def label(
    config: LabelConfig, on_progress: Callable[[Progress], None] = lambda progress: None
) -> LabelSummary:
    """Label every image of a folder or bucket, or what an earlier run of the job left over.

    Starts Ray on this machine unless there is a cluster to join (session.py).

    Raises:
        UsageError: the input, output or model cannot be used; mostly found before anything is
            written, and the same command resumes where not.
        StorageUnreachableError: a store does not answer; the same command resumes.
    """
    started = monotonic()
    source = open_source(config.input_uri, config.extensions, anonymous=config.anonymous)
    output = open_store(config.output_uri)
    model = load_model(config.model_uri)
    job, is_new = find_job(describe_job(config, model, source, output), source, output)
    if not is_new and (summary := read_summary(output, LabelSummary)):
        logger.info("%s is complete: nothing left to do.", output.uri)
        return replace(summary, num_images_this_run=0, wall_s=monotonic() - started)
    if job.threshold is None:
        logger.warning("%s", explain_no_threshold(config.max_risk, model.info.calibration))
    check_input(source)  # when resuming, too: a disk may not be mounted
    with Lease(output) as lease:
        job, is_new = find_job(job, source, output)  # another command may have begun it meanwhile
        return _label_rest(config, job, is_new, model, output, started, lease.guard(on_progress))


def _label_rest(
    config: LabelConfig,
    job: Job,
    is_new: bool,
    model: Model,
    output: Store,
    started: float,
    on_progress: Callable[[Progress], None],
) -> LabelSummary:
    """Label the shards that are not finished, and declare the job complete."""
    finished = {} if is_new else list_finished_shards(output)
    check_finished(output, finished)
    connect_ray()
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_actors, num_gpus_per_actor = plan_workers(
        config.num_actors, config.num_gpus_per_actor, cluster
    )
    if is_new:
        write_job(output, job)
        crash_point("job-written")

    earlier = list(read_receipts(output, list(finished.values())))
    num_before = sum(receipt.num_images for receipt in earlier)
    seconds = Counter[str]()
    labelling_started = monotonic()
    labelled = label_shards(
        job,
        model,
        frozenset(finished),
        seconds,
        num_actors=num_actors,
        num_gpus_per_actor=num_gpus_per_actor,
    )
    listing = ListingMonitor(output, job.shard_size)
    receipts = list(follow(labelled, num_before, listing, on_progress))
    times = RunTimes(
        seconds=dict(seconds),
        wall_s=monotonic() - labelling_started,
        num_cpus=cluster["CPU"] if num_gpus_per_actor else num_actors,
        num_gpus=num_actors * num_gpus_per_actor,
        num_images=sum(receipt.num_images for receipt in receipts),
    )
    summary = LabelSummary(
        **add_up(job, earlier, receipts, times, monotonic() - started),
        model_sha256=job.model_sha256,
        num_accepted=sum(receipt.num_accepted for receipt in [*earlier, *receipts]),
    )
    crash_point("all-labelled")
    write_summary(output, summary)
    crash_point("success-written")
    return summary


def explain_no_threshold(max_risk: float, calibration: Calibration) -> str:
    """What a person should know where a model cannot promise a risk."""
    min_risk = calibration.min_risk
    remedy = f"pass --max-risk {min_risk:g} or more" if min_risk else "train on more images"
    return (
        "No row will be accepted: the images that the model was calibrated on are too few, or its "
        f"errors on them too many, to promise a risk of {max_risk:g}; {remedy}."
    )
