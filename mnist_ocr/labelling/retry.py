"""`retry(config)`: some rows of a finished job once more, in a new generation."""

import logging
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from mnist_ocr.digits.model import load_model
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import LabelConfig, RetryConfig
from mnist_ocr.labelling.generations import find_current, open_generation, open_root
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import Job, check_same_job, describe_job, read_job
from mnist_ocr.labelling.label import finish
from mnist_ocr.labelling.lease import Lease
from mnist_ocr.labelling.manifest import check_input
from mnist_ocr.labelling.redo import parse_statuses
from mnist_ocr.labelling.report import Progress
from mnist_ocr.labelling.summary import LabelSummary, read_summary
from mnist_ocr.labelling.targets import find_next
from mnist_ocr.storage import Store

logger = logging.getLogger(__name__)


def retry(
    config: RetryConfig, on_progress: Callable[[Progress], None] = lambda progress: None
) -> LabelSummary:
    """Read the objects of rows with some statuses once more, as they are now.

    Raises:
        UsageError: there is no such status, no finished job in the output, or its model is another;
            and as `label` does.
        StorageUnreachableError: a store does not answer; the same command resumes.
    """
    started = monotonic()
    redo = parse_statuses(config.status)
    root = open_root(config.output_uri)
    number, _, summary = _read_current(root)
    if not summary.statuses.keys() & set(redo):
        logger.info("No row of %s is %s: nothing to do.", root.uri, " or ".join(redo))
        return summary.rest(open_generation(root, number), started)
    model = load_model(config.model_uri)
    with Lease(root) as lease:
        number, job, _ = _read_current(root)
        source = open_source(job.input_uri, job.extensions, anonymous=config.anonymous)
        as_labelled = LabelConfig(
            job.input_uri,
            root.uri,
            model_uri=config.model_uri,
            max_risk=job.max_risk,
            extensions=job.extensions,
            anonymous=config.anonymous,
            shard_size=job.shard_size,
        )
        wanted = describe_job(as_labelled, model, source, root)
        check_same_job(
            job,
            wanted,
            "All rows are to be of one model: retry with the one that made them, or label all "
            "anew (mnist-ocr label --relabel).",
        )
        check_input(source)
        target = find_next(replace(wanted, base=number, redo=redo), source, root, number)
        return finish(target, source, model, config, started, lease, on_progress)


def _read_current(root: Store) -> tuple[int, Job, LabelSummary]:
    """The current generation: its number, what it is and what came of it."""
    number = find_current(root)
    current = open_generation(root, number)
    job, summary = read_job(current, Job), read_summary(current, LabelSummary)
    if not job or not summary:
        raise UsageError(f"{current.uri} holds no finished labelling job: run `label` first.")
    return number, job, summary
