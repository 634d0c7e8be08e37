"""The files of a labelling job's output: are all there, and no others?"""

from collections.abc import Callable

from mnist_ocr.errors import DamagedOutputError
from mnist_ocr.labelling import generations, lease
from mnist_ocr.labelling.job import JOB, Job
from mnist_ocr.labelling.kept_rows import RERUN, explain_redoing
from mnist_ocr.labelling.manifest import PART_NAME, find_gap, part_name, read_totals
from mnist_ocr.labelling.manifest_shard import COMPLETE, SHARD_NAME, explain_relisting, shard_name
from mnist_ocr.labelling.summary import SUCCESS, LabelSummary, read_summary
from mnist_ocr.storage import ObjectInfo, Store

KNOWN = (JOB, SUCCESS, COMPLETE, generations.CURRENT)
OTHER_FOLDERS = (lease.FOLDER, generations.FOLDER)
"""Of the output with all of its generations."""


class OutputFiles:
    """What says that a job has ended, and then the other files by name.

    In this order, since a command that runs may end meanwhile.

    Args:
        output: Where they are.
        job: That they should be of.
        report: Is told what is wrong, and what to do about it.
    """

    def __init__(self, output: Store, job: Job, report: Callable[[str], None]) -> None:
        self._output = output
        self._job = job
        self._report = report
        self.is_finished = True
        """Whether there is a `_SUCCESS`, be it damaged."""
        self.summary: LabelSummary | None = None
        """Its content."""
        self.totals: dict[str, int] | None = None
        """The content of `complete.json`."""
        self.manifest: dict[int, ObjectInfo] = {}
        """Of each shard, in order."""
        self.parts: dict[int, ObjectInfo] = {}

        try:
            self.summary = read_summary(output, LabelSummary)
            self.is_finished = self.summary is not None
        except DamagedOutputError as error:
            report(str(error))
        try:
            self.totals = read_totals(output)
            if self.is_finished and self.totals is None:
                report(
                    f"{output.uri_of(COMPLETE)} is missing. Delete {self._success}, then {RERUN}."
                )
        except DamagedOutputError as error:
            report(str(error))
        for page in output.list():
            for info in page:
                self._sort_in(info)

    def _sort_in(self, info: ObjectInfo) -> None:
        base_name = info.name.rpartition("/")[2]
        if match := SHARD_NAME.fullmatch(info.name):
            self.manifest[int(match[1])] = info
        elif match := PART_NAME.fullmatch(info.name):
            self.parts[int(match[1])] = info
        elif base_name == "" or base_name.startswith("."):
            return  # a folder's marker, a temporary file
        elif info.name not in KNOWN and not info.name.startswith(OTHER_FOLDERS):
            self._report(
                f"{self._output.uri_of(info.name)} is none of the job's files. Move it away."
            )

    @property
    def how_to_redo(self) -> str:
        """What to do about a part that is not right."""
        what = f"it and {SUCCESS} beside it" if self.is_finished else "it"
        return explain_redoing(self._job, what)

    @property
    def _success(self) -> str:
        return self._output.uri_of(SUCCESS)

    def check_job(self) -> bool:
        """Whether `_SUCCESS` is of this job; if it is not, all parts would be of a wrong one."""
        for key in ("job_id", "model_sha256", "versions", "job_sha256") if self.summary else ():
            expected, found = getattr(self._job, key), getattr(self.summary, key)
            if found != expected:
                self._report(
                    f"{self._output.uri_of(JOB)} has {key} {expected}, {SUCCESS} has {found}. "
                    "Restore the one that is wrong from a copy."
                )
                return False
        return True

    def check_names(self) -> bool:
        """Whether each manifest shard is there, and its part; no other part should be."""
        num_shards = max(self.manifest, default=-1) + 1
        if self.totals:
            num_shards = max(num_shards, self.totals["num_shards"])
        if (lost := find_gap(self.manifest)) < num_shards:
            advice = explain_relisting(self._output, lost)
            self._report(f"{self._output.uri_of(shard_name(lost))} is missing. {advice}")
        missing = sorted(self.manifest.keys() - self.parts.keys())
        if not self.is_finished:
            listing = "" if self.totals else ", and the listing has not ended"
            self._report(
                f"The job is unfinished: {len(self.manifest) - len(missing):,} of "
                f"{len(self.manifest):,} shards on record are labelled{listing}. Let the command "
                f"that is at it end, or {RERUN}."
            )
        for shard in missing if self.is_finished else ():
            advice = explain_redoing(self._job, f"{SUCCESS} beside it")
            self._report(f"{self._output.uri_of(part_name(shard))} is missing. {advice}")
        for shard in sorted(self.parts.keys() - self.manifest.keys()):
            if shard >= num_shards and not self._is_new(shard):
                part = self._output.uri_of(part_name(shard))
                self._report(f"{part} is of no shard of the manifest. Move it away.")
        return self.is_finished and not missing and len(self.manifest) == num_shards

    def _is_new(self, shard: int) -> bool:
        """Whether a command that runs has added a shard since the manifest was listed."""
        return not self.is_finished and self._output.find(shard_name(shard)) is not None

    def check_counts(
        self, num_shards: int, num_images: int, num_accepted: int, statuses: dict[str, int]
    ) -> None:
        """Compare with what the parts add up to."""
        found = {"num_shards": num_shards, "num_images": num_images}
        if self.totals not in (None, found):
            self._report(
                f"{self._output.uri_of(COMPLETE)} counts {self.totals}, the parts have {found}. "
                f"Delete it and {self._success}, then {RERUN}."
            )
        expected = {**found, "num_accepted": num_accepted, "statuses": statuses}
        for key, value in expected.items() if self.summary else ():
            if (stated := getattr(self.summary, key)) != value:
                self._report(
                    f"{self._success} says {key} {stated}, the parts have {value}. Delete it, "
                    f"then {RERUN}."
                )
