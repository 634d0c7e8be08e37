"""`OUTPUT/_job.json`: what a labelling job is. A run that is not the same job may not add to it."""

import json
from dataclasses import asdict, dataclass
from uuid import uuid4

from mnist_ocr.digits.canonical import PREPROCESSING_VERSION
from mnist_ocr.digits.model import Model, package_versions
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.labelling.config import LabelConfig
from mnist_ocr.labelling.sources import Source
from mnist_ocr.storage import Store

JOB = "_job.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a row depends on; workers get a copy."""

    job_id: str
    input_uri: str
    output_uri: str
    extensions: tuple[str, ...]
    shard_size: int
    max_risk: float
    threshold: float | None
    """Confidence from which on rows are accepted: the model's for `max_risk`, if it has one."""
    model_sha256: str
    preprocessing_version: int
    versions: dict[str, str]

    @property
    def fingerprint(self) -> dict[str, object]:
        """What must be the same for two runs to be the same job."""
        fields = asdict(self)
        del fields["job_id"], fields["output_uri"]  # an output may be moved, then resumed
        return {**fields, "extensions": list(self.extensions)}


def describe_job(config: LabelConfig, model: Model, source: Source, output: Store) -> Job:
    """The job that a run asks for."""
    threshold = model.info.calibration.find_threshold(config.max_risk)
    return Job(
        job_id=uuid4().hex,
        input_uri=source.uri,
        output_uri=output.uri,
        extensions=config.extensions,
        shard_size=config.shard_size,
        max_risk=config.max_risk,
        threshold=threshold.confidence if threshold else None,
        model_sha256=model.sha256,
        preprocessing_version=PREPROCESSING_VERSION,
        versions=package_versions(),
    )


def read_job(output: Store) -> Job | None:
    """The job on record, or None where there is none.

    Raises:
        UsageError: `_job.json` is not one of this package's.
    """
    try:
        fields = json.loads(output.read(JOB))
        return Job(**{**fields, "extensions": tuple(fields["extensions"])})
    except ObjectError as error:
        if error.status != "missing":
            raise
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{output.uri_of(JOB)} is damaged or of another mnist-ocr ({error}). "
            "Choose another output folder."
        ) from error


def check_same_job(recorded: Job, wanted: Job) -> None:
    """Refuse to mix two jobs in one output.

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
            "Choose another output folder, or run the job as it was begun."
        )


def write_job(output: Store, job: Job) -> None:
    """Put the job on record."""
    output.write(JOB, json.dumps(asdict(job), indent=2).encode())
