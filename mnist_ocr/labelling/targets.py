"""Which generation of an output a command works on, and what it makes of it."""

from dataclasses import dataclass, replace

from mnist_ocr.crash import crash_point
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import Change
from mnist_ocr.labelling.generations import FOLDER, find_current, open_generation
from mnist_ocr.labelling.job import Job, check_apart, check_same_job, find_job, read_job, write_job
from mnist_ocr.labelling.sources import Source
from mnist_ocr.labelling.summary import LabelSummary, read_summary
from mnist_ocr.storage import Store


class OtherGenerationError(UsageError):
    """Another generation has been begun, by a command that runs or was cut off."""


@dataclass(frozen=True)
class Target:
    """A generation that is to be finished."""

    root: Store
    """The output with all of its generations."""
    number: int
    output: Store
    """The generation."""
    job: Job
    is_new: bool
    """Whether it is yet to be begun."""
    base: Store | None
    """The current generation, if this one takes rows over from it."""
    is_current: bool
    """Whether readers see it as it grows, since there is no other."""

    def read_summary(self) -> LabelSummary | None:
        """Of the generation, if it is finished."""
        return None if self.is_new else read_summary(self.output, LabelSummary)

    def begin(self) -> None:
        """Put the job on record, if it is not."""
        if self.is_new:
            write_job(self.output, self.job)
            crash_point("job-written")


def find_target(wanted: Job, source: Source, root: Store, change: Change | None = None) -> Target:
    """The generation that a job belongs to.

    Args:
        wanted: What the command asks for.
        source: Its input.
        root: The output.
        change: `update` for a generation that follows from the current one, `relabel` for one of
            its own if the current one is another job; None to finish the current one.

    Raises:
        UsageError: the output holds something else, or lies within the input.
    """
    check_apart(source, root)
    number = find_current(root)
    current = open_generation(root, number)
    recorded = read_job(current, Job)
    if recorded and change == "update":
        check_same_job(recorded, replace(wanted, output_uri=root.uri))
        if read_summary(current, LabelSummary):
            return find_next(replace(wanted, base=number), source, root, number)
    if recorded and change == "relabel" and recorded.fingerprint != wanted.fingerprint:
        return find_next(wanted, source, root, number)
    job, is_new = find_job(replace(wanted, output_uri=current.uri), source, current)
    return Target(root, number, current, job, is_new, None, is_current=True)


def find_next(wanted: Job, source: Source, root: Store, current: int) -> Target:
    """The generation behind the current one, whether begun or not.

    Raises:
        OtherGenerationError: another one has been begun.
    """
    output = open_generation(root, current + 1)
    wanted = replace(wanted, output_uri=output.uri)
    recorded = read_job(output, Job)
    if not recorded and (left := _find_file(root, current + 1)):
        raise OtherGenerationError(
            f"{root.uri_of(left)} is left of a generation that was deleted. Delete the rest, too: "
            f"mnist-ocr prune {root.uri}"
        )
    if recorded and recorded.generation_fingerprint != wanted.generation_fingerprint:
        raise OtherGenerationError(
            f"{output.uri} is a generation that another command has begun. Run that command again, "
            f"or remove what it has done: mnist-ocr prune {root.uri}"
        )
    job, is_new = find_job(wanted, source, output)
    base = None if job.base is None else open_generation(root, job.base)
    return Target(root, current + 1, output, job, is_new, base, is_current=False)


def _find_file(root: Store, number: int) -> str | None:
    """A file of a generation, if there is one; not a temporary one."""
    pages = root.list(f"{FOLDER}{number:04d}/")
    names = (info.name for page in pages for info in page)
    return next((name for name in names if not name.rpartition("/")[2].startswith(".")), None)
