"""`label(config)`: the whole labelling job, from its checks to `_SUCCESS`."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import ray

from mnist_ocr.crash import crash_point
from mnist_ocr.digits.calibration import Calibration
from mnist_ocr.digits.model import Model, load_model
from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.config import LabelConfig, RetryConfig
from mnist_ocr.labelling.generations import open_root, switch_to
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import describe_job
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.manifest import (
    ListingMonitor,
    check_finished,
    check_input,
    list_finished_shards,
    read_totals,
)
from mnist_ocr.labelling.monitoring import monitored
from mnist_ocr.labelling.pipeline import label_shards
from mnist_ocr.labelling.prune import delete_generation
from mnist_ocr.labelling.redo import write_redone
from mnist_ocr.labelling.report import Progress, follow
from mnist_ocr.labelling.shards import read_receipts
from mnist_ocr.labelling.sources import Source
from mnist_ocr.labelling.summary import LabelSummary, add_up, read_summary, write_summary
from mnist_ocr.labelling.targets import OtherGenerationError, Target, find_target
from mnist_ocr.labelling.update import find_changes
from mnist_ocr.labelling.workers import plan_workers
from mnist_ocr.session import connect_ray
from mnist_ocr.storage import Store

logger = logging.getLogger(__name__)


Listener = Callable[[Progress], None]


def label(config: LabelConfig, on_progress: Listener = lambda progress: None) -> LabelSummary:
    """Label every image of a folder or bucket, or what an earlier run of the job left over.

    Starts Ray on this machine unless there is a cluster to join (session.py).

    Raises:
        UsageError: the input, output or model cannot be used; mostly found before anything is
            written, and the same command resumes where not.
        StorageUnreachableError: a store does not answer; the same command resumes.
    """
    started = monotonic()
    source = open_source(config.input_uri, config.extensions, anonymous=config.anonymous)
    root = open_root(config.output_uri)
    model = load_model(config.model_uri)
    wanted = describe_job(config, model, source, root)
    with suppress(OtherGenerationError):  # of a command that runs, as its lease tells
        target = find_target(wanted, source, root, config.change)
        if target.is_current and (summary := target.read_summary()):
            logger.info("%s is complete: nothing left to do.", root.uri)
            return summary.rest(target.output, started)
    if wanted.threshold is None:
        logger.warning("%s", explain_no_threshold(config.max_risk, model.info.calibration))
    check_input(source)  # when resuming, too: a disk may not be mounted
    with Lease(root) as lease:
        # another command may have begun it meanwhile, or finished it
        target = find_target(wanted, source, root, config.change)
        return finish(target, source, model, config, started, lease, on_progress)


def finish(
    target: Target,
    source: Source,
    model: Model,
    config: LabelConfig | RetryConfig,
    started: float,
    lease: Lease,
    on_progress: Listener,
) -> LabelSummary:
    """Do what a generation lacks, and have readers see it.

    Args:
        target: The generation.
        source: Its input.
        model: Its model.
        config: How many workers to use.
        started: When the command was, by `monotonic`.
        lease: Of the output.
        on_progress: Is told.
    """
    on_progress = lease.guard(on_progress)
    if summary := target.read_summary():  # it was killed before the switch
        summary = summary.rest(target.output, started)
    else:
        if target.base:
            unchanged = _record_objects(target, target.base, source, lease, on_progress)
            if unchanged:
                return unchanged.rest(target.base, started)
            target = replace(target, is_new=False)
        summary = _label_rest(target, model, config, started, lease, on_progress)
    if not target.is_current:
        lease.check()
        switch_to(target.root, target.number)
        crash_point("generation-switched")
    return summary


def _record_objects(
    target: Target, base: Store, source: Source, lease: Lease, on_progress: Listener
) -> LabelSummary | None:
    """Put on record which objects a generation with a base holds.

    Returns:
        The base's summary if there is nothing to do.
    """
    if read_totals(target.output):
        return None

    def on_object(num_objects: int) -> None:
        on_progress(Progress(num_listed=num_objects))

    if target.job.redo:
        lease.check()
        target.begin()
        write_redone(source, base, target.output, target.job.redo, on_object)
        return None
    with find_changes(source, base, on_object) as changes:
        crash_point("changes-found")
        if len(changes.objects):
            lease.check()
            target.begin()
            changes.write(base, target.output, target.job.shard_size, on_object)
            return None
    logger.info("Nothing under %s is new or has changed.", source.uri)
    if not target.is_new:
        delete_generation(target.root, target.number, lease.check)
    return read_summary(base, LabelSummary)


def _label_rest(
    target: Target,
    model: Model,
    config: LabelConfig | RetryConfig,
    started: float,
    lease: Lease,
    on_progress: Listener,
) -> LabelSummary:
    """Label the shards that are not finished, and declare the job complete."""
    job, output = target.job, target.output
    finished = {} if target.is_new else list_finished_shards(output)
    check_finished(output, finished)
    connect_ray()
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_actors, num_gpus_per_actor = plan_workers(
        config.num_actors, config.num_gpus_per_actor, cluster
    )
    lease.check()
    target.begin()

    earlier = list(read_receipts(output, job.job_id, list(finished.values())))
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
    with monitored(job.job_id, on_progress) as update:
        receipts = list(follow(labelled, earlier, listing, update))
    times = RunTimes(
        seconds=dict(seconds),
        wall_s=monotonic() - labelling_started,
        num_cpus=cluster["CPU"] if num_gpus_per_actor else num_actors,
        num_gpus=num_actors * num_gpus_per_actor,
        num_images=sum(receipt.num_read for receipt in receipts),
    )
    summary = LabelSummary(
        **add_up(job, earlier, receipts, times, monotonic() - started),
        model_sha256=job.model_sha256,
        num_accepted=sum(receipt.num_accepted for receipt in [*earlier, *receipts]),
    )
    crash_point("all-labelled")
    lease.check()
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
