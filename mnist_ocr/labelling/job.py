"""`OUTPUT/_job.json`: what a job is. A run that is not the same job may not add to an output."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

from mnist_ocr.digits.canonical import PREPROCESSING_VERSION
from mnist_ocr.digits.model import Model, package_versions
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import lease
from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.documents import check_types, create, read_document
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import Store, is_local

JOB = "_job.json"


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that a shard's output depends on; workers get a copy."""

    command: ClassVar[str]
    """Whose job it is."""
    remedy: ClassVar[str] = "Choose another output folder, or run the job as it was begun."
    """For whoever wants another job in the output."""

    job_id: str
    input_uri: str
    output_uri: str
    extensions: tuple[str, ...]
    anonymous: bool
    """Of the run, not of the job: a run's own, whatever the one on record was begun with."""
    shard_size: int
    versions: dict[str, str]

    @property
    def fingerprint(self) -> dict[str, object]:
        """What must be the same for two runs to be the same job."""
        fields = asdict(self)
        # an output may be moved, a bucket opened, and the job then resumed
        del fields["job_id"], fields["output_uri"], fields["anonymous"]
        return {**fields, "extensions": list(self.extensions)}

    @property
    def job_sha256(self) -> str:
        """Of all of it but where it lies and how its input is opened."""
        document = {**asdict(self), "output_uri": "", "anonymous": False}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Job(ShardJob):
    """A labelling job; of an output with several generations, one of them."""

    command = "label"
    remedy = (
        "Pass --relabel for a new generation beside the old, choose another output folder, or run "
        "the job as it was begun."
    )

    max_risk: float
    threshold: float | None
    """Confidence from which on rows are accepted: the model's for `max_risk`, if it has one."""
    model_sha256: str
    preprocessing_version: int
    base: int | None = None
    """Number of the generation whose rows are taken over where nothing has changed."""
    redo: tuple[str, ...] = ()
    """Statuses of rows that are not taken over."""

    @property
    def fingerprint(self) -> dict[str, object]:
        """What is the same in all generations of which one is made from the other."""
        fields = super().fingerprint
        del fields["base"], fields["redo"]
        return fields

    @property
    def generation_fingerprint(self) -> dict[str, object]:
        """What must be the same for two runs to make the same generation."""
        return {**self.fingerprint, "base": self.base, "redo": self.redo}


J = TypeVar("J", bound=ShardJob)


def describe_job(config: LabelConfig, model: Model, source: Source, output: Store) -> Job:
    """The labelling job that a run asks for."""
    threshold = model.info.calibration.find_threshold(config.max_risk)
    return Job(
        job_id=uuid4().hex,
        input_uri=source.uri,
        output_uri=output.uri,
        extensions=config.extensions,
        anonymous=config.anonymous,
        shard_size=config.shard_size,
        max_risk=config.max_risk,
        threshold=threshold.confidence if threshold else None,
        model_sha256=model.sha256,
        preprocessing_version=PREPROCESSING_VERSION,
        versions=package_versions(),
    )


def find_job(wanted: J, source: Source, output: Store) -> tuple[J, bool]:
    """The job on record, or the one wanted if the output is free for it; and whether it is new.

    Raises:
        UsageError: the output holds something else, or lies within the input.
    """
    check_apart(source, output)
    if recorded := read_job(output, type(wanted)):
        check_same_job(recorded, wanted)
        recorded = replace(recorded, output_uri=output.uri, anonymous=wanted.anonymous)
        return recorded, False
    if is_local(output.uri) and not Path(output.uri).exists():
        return wanted, True
    names = (info.name for page in output.list() for info in page)
    # "" is the marker of an S3 folder
    if foreign := next((n for n in names if n and not n.startswith((".", lease.FOLDER))), None):
        raise UsageError(
            f"The output folder {output.uri} is in use: it holds {foreign} and no {JOB}. "
            "Choose an empty or new one."
        )
    return wanted, True


def check_apart(source: Source, output: Store) -> None:
    """Make sure that the input does not hold the output, nor the output the input.

    Raises:
        UsageError: one does.
    """
    if source.holds(output.uri) or f"{source.uri}/".startswith(f"{output.uri}/"):
        raise UsageError(
            f"Input {source.uri} and output {output.uri} lie one in the other. "
            "Choose an output folder apart from the input."
        )


def read_job(output: Store, kind: type[J]) -> J | None:
    """The job on record, or None where there is none.

    Raises:
        DamagedOutputError: `_job.json` is damaged.
        UsageError: it is not one of this command's.
    """
    document = read_document(
        output,
        JOB,
        lambda document: _decode(document, kind),
        "Restore it from a copy, or choose another folder.",
    )
    if document is None:
        return None
    if different := sorted(document.keys() ^ {field.name for field in fields(kind)}):
        raise UsageError(
            f"{output.uri} holds no job of `mnist-ocr {kind.command}`: {JOB} is of another command "
            f"or version of mnist-ocr, which differs in {', '.join(different)}. Choose another "
            "folder."
        )
    return kind(**document)


def _decode(document: Any, kind: type[ShardJob]) -> dict[str, Any]:
    found = {
        key: tuple(value) if key in ("extensions", "redo") else value
        for key, value in dict(document).items()
    }
    check_types(found, kind)
    return found


def check_same_job(recorded: ShardJob, wanted: ShardJob, remedy: str = "") -> None:
    """Refuse to mix two jobs in one output.

    Args:
        recorded: The output's.
        wanted: What is to be added to it.
        remedy: What to do instead, if not the usual.

    Raises:
        UsageError: names each difference.
    """
    old, new = recorded.fingerprint, wanted.fingerprint
    differences = [
        f"{key} was {old[key]!r}, is {new[key]!r}" for key in new if old[key] != new[key]
    ]
    if differences:
        raise UsageError(
            f"{wanted.output_uri} holds another job: {'; '.join(differences)}. "
            f"{remedy or wanted.remedy}"
        )


def write_job(output: Store, job: ShardJob) -> None:
    """Put the job on record."""
    create(output, JOB, json.dumps(asdict(job), indent=2).encode())
