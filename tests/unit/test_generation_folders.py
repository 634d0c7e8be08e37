"""Where generations lie, which is current, which a command works on, and which are deleted."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mnist_ocr
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling import generations, prune, targets
from mnist_ocr.labelling.config import LabelConfig, PruneConfig
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.job import Job, read_job, write_job
from mnist_ocr.labelling.manifest_shard import explain_relisting
from mnist_ocr.labelling.redo import STATUSES, parse_statuses
from mnist_ocr.storage import Store, open_store

JOB = Job(
    job_id="1",
    input_uri="/scans",
    output_uri="",
    extensions=(),
    anonymous=False,
    shard_size=4096,
    max_risk=0.001,
    threshold=0.99,
    model_sha256="ab",
    preprocessing_version=1,
    versions={},
)
SOURCE = FolderSource(open_store("/scans"))


@pytest.fixture
def root(tmp_path: Path) -> Store:
    """An output with nothing in it."""
    return open_store(str(tmp_path))


@pytest.fixture(autouse=True)
def summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A summary is as good as any if there is one."""

    def read_summary(output: Store, kind: type) -> str | None:
        return "finished" if output.find("_SUCCESS") else None

    monkeypatch.setattr(targets, "read_summary", read_summary)


def write_generation(root: Store, number: int, job: Job = JOB, *, finished: bool = True) -> Store:
    """A generation's files."""
    output = generations.open_generation(root, number)
    write_job(output, replace(job, output_uri=output.uri))
    for name in ("part-00000000.parquet", "_manifest/00000000.arrow", "_manifest/complete.json"):
        output.write(name, b"x")
    if finished:
        output.write("_SUCCESS", b"{}")
    return output


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_output_that_was_never_updated_is_its_own_generation(root: Store, tmp_path: Path) -> None:
    """Also one that does not exist yet."""
    assert mnist_ocr.labels_uri(str(tmp_path)) == str(tmp_path)
    assert mnist_ocr.labels_uri(f"{tmp_path}/none/") == f"{tmp_path}/none"


def test_switch_is_what_readers_follow(root: Store, tmp_path: Path) -> None:
    """One file says which folder holds the current rows."""
    generations.switch_to(root, 12)
    assert mnist_ocr.labels_uri(str(tmp_path)) == f"{tmp_path}/_generations/0012"
    assert generations.find_current(root) == 12


@given(number=st.integers(0, 99999), base=st.integers(0, 99999))
def test_generations_find_each_other(number: int, base: int) -> None:
    """A base is known by its number, so that an output may be moved."""
    uri = generations.generation_uri("s3://b/out", number)
    assert generations.sibling_uri(uri, base) == generations.generation_uri("s3://b/out", base)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"generation": "x"}', '{"generation": 1e999}']
)
def test_damaged_current_is_said(content: str, root: Store, tmp_path: Path) -> None:
    """Nobody guesses."""
    (tmp_path / "_CURRENT").write_text(content)
    with pytest.raises(UsageError, match="_CURRENT is damaged"):
        mnist_ocr.labels_uri(str(tmp_path))


def test_one_generation_is_no_output_to_write_to() -> None:
    """Its lease would be another."""
    with pytest.raises(UsageError, match=r"Pass the output: s3://b/out$"):
        generations.open_root("s3://b/out/_generations/0003/")


def test_commands_without_a_change_go_on_with_the_current_generation(root: Store) -> None:
    """Whether there is nothing, something unfinished, or something newer that is unfinished."""
    for change in (None, "update", "relabel"):
        target = targets.find_target(JOB, SOURCE, root, change)
        assert (target.number, target.is_new, target.is_current) == (0, True, True)
    write_generation(root, 0, finished=False)
    for change in (None, "update", "relabel"):
        target = targets.find_target(JOB, SOURCE, root, change)
        assert (target.number, target.is_new, target.base) == (0, False, None)
    root.write("_SUCCESS", b"{}")
    write_generation(root, 1, finished=False)
    assert targets.find_target(JOB, SOURCE, root).number == 0
    generations.switch_to(root, 1)
    target = targets.find_target(JOB, SOURCE, root)
    assert (target.number, target.job.output_uri) == (1, target.output.uri)


def test_update_follows_from_the_current_generation(root: Store) -> None:
    """It is begun once, and then resumed; another kind of generation is not mixed with it."""
    write_generation(root, 0)
    target = targets.find_target(JOB, SOURCE, root, "update")
    assert (target.number, target.is_new, target.is_current) == (1, True, False)
    assert target.base
    assert (target.base.uri, target.job.base, target.job.redo) == (root.uri, 0, ())
    target.begin()
    again = targets.find_target(replace(JOB, job_id="2"), SOURCE, root, "update")
    assert (again.number, again.is_new, again.job) == (1, False, target.job)
    other = replace(JOB, model_sha256="cd")
    with pytest.raises(UsageError, match=r"0001 is a generation that another command has begun"):
        targets.find_target(other, SOURCE, root, "relabel")
    redone = replace(JOB, base=0, redo=("missing",))
    with pytest.raises(UsageError, match=r"mnist-ocr prune /"):
        targets.find_next(redone, SOURCE, root, 0)


def test_update_of_another_job_is_refused(root: Store) -> None:
    """Rows of two models do not mix; the remedy is named."""
    write_generation(root, 0)
    for change in (None, "update"):
        with pytest.raises(UsageError, match=r"model_sha256 was 'ab', is 'cd'\. Pass --relabel"):
            targets.find_target(replace(JOB, model_sha256="cd"), SOURCE, root, change)


def test_relabelling_needs_another_job(root: Store) -> None:
    """With the same settings it is the current generation, finished or not."""
    write_generation(root, 0)
    assert targets.find_target(JOB, SOURCE, root, "relabel").number == 0
    other = replace(JOB, model_sha256="cd")
    target = targets.find_target(other, SOURCE, root, "relabel")
    assert (target.number, target.base, target.is_new) == (1, None, True)
    target.begin()
    generations.switch_to(root, 1)
    assert targets.find_target(other, SOURCE, root, "relabel").is_current
    assert targets.find_target(JOB, SOURCE, root, "relabel").number == 2


def test_update_and_relabel_exclude_each_other() -> None:
    """The message says what relabelling covers."""
    with pytest.raises(UsageError, match="update and relabel are both given"):
        LabelConfig("in", "out", update=True, relabel=True)


def test_pruning_keeps_the_current_generation(root: Store, tmp_path: Path) -> None:
    """Older ones go, and a newer one that is unfinished; nothing else is touched."""
    for number in range(4):
        write_generation(root, number, finished=number < 3)
    generations.switch_to(root, 2)
    root.write("notes.txt", b"mine")
    dry = prune.prune(PruneConfig(str(tmp_path), dry_run=True))
    assert dry.generation_uris == [
        root.uri,
        f"{root.uri}/_generations/0001",
        f"{root.uri}/_generations/0003",
    ]
    assert (dry.num_files, dry.current_uri) == (14, f"{root.uri}/_generations/0002")
    before = names_in(tmp_path)
    pruning = prune.prune(PruneConfig(str(tmp_path)))
    assert pruning == replace(dry, dry_run=False)
    kept = [n for n in before if n.startswith("_generations/0002/")]
    assert names_in(tmp_path) == sorted([*kept, "_CURRENT", "notes.txt"])
    assert [path.name for path in (tmp_path / "_generations").iterdir()] == ["0002"]
    assert not (tmp_path / "_manifest").exists()
    assert prune.prune(PruneConfig(str(tmp_path))).num_files == 0


def test_pruning_that_was_cut_off_is_finished_by_the_next(
    root: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then no command takes what is left for a generation."""
    write_generation(root, 0)
    write_generation(root, 1, replace(JOB, base=0), finished=False)

    def die(step: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prune, "crash_point", die)
        with pytest.raises(KeyboardInterrupt):
            prune.prune(PruneConfig(str(tmp_path)))
    with pytest.raises(UsageError, match=r"is left of a generation that was deleted.*prune /"):
        targets.find_target(JOB, SOURCE, root, "update")
    assert prune.prune(PruneConfig(str(tmp_path))).num_files == 3
    assert targets.find_target(JOB, SOURCE, root, "update").is_new


def test_pruning_what_is_no_output_is_refused(root: Store, tmp_path: Path) -> None:
    """A folder of something else may hold a `part-1.txt`."""
    (tmp_path / "part-1.txt").write_text("x")
    with pytest.raises(UsageError, match="holds no labelling job"):
        prune.prune(PruneConfig(str(tmp_path)))
    assert names_in(tmp_path) == ["part-1.txt"]


def test_finished_generation_that_is_newer_is_not_pruned(root: Store, tmp_path: Path) -> None:
    """It lacks the switch only; so does a path that holds no job get nothing written into it."""
    write_generation(root, 0)
    write_generation(root, 1)
    with pytest.raises(UsageError, match=r"_generations/0001 is finished, and newer"):
        prune.prune(PruneConfig(str(tmp_path)))
    assert root.find("_SUCCESS")
    (tmp_path / "typo").mkdir()
    with pytest.raises(UsageError, match="holds no labelling job"):
        prune.prune(PruneConfig(str(tmp_path / "typo")))
    assert not list((tmp_path / "typo").iterdir())


def test_pruning_ends_once_the_output_is_held_by_another(
    root: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks between the files, too, which another command may be writing by then."""
    write_generation(root, 0)
    monkeypatch.setattr(prune, "BATCH_LENGTH", 1)
    checks = iter([None, None, UsageError("taken over")])

    def check() -> None:
        if error := next(checks):
            raise error

    with pytest.raises(UsageError, match="taken over"):
        prune.delete_generation(root, 0, check)
    assert root.find("part-00000000.parquet")


def test_files_that_may_not_be_deleted_are_said(
    root: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store lets such a file be."""
    write_generation(root, 0)
    write_generation(root, 1)
    generations.switch_to(root, 1)
    delete = type(root).delete

    def refuse(store: Store, name: str) -> None:
        if not name.endswith(".parquet"):
            delete(store, name)

    monkeypatch.setattr(type(root), "delete", refuse)
    with pytest.raises(UsageError, match=r"Cannot delete .*part-00000000\.parquet \(1 files"):
        prune.prune(PruneConfig(str(tmp_path)))


def test_statuses_are_parsed() -> None:
    """In any order, once each; what is none is named, with those that there are."""
    assert parse_statuses("throttled, missing,missing") == ("missing", "throttled")
    with pytest.raises(UsageError, match=r"no status mising\. There are blank, changed, corrupt"):
        parse_statuses("mising,ok")
    with pytest.raises(UsageError, match="empty"):
        parse_statuses(" ,")
    assert {"ok", "throttled", "not_a_digit", "truncated"} < STATUSES


def test_job_of_a_generation_is_read_back(root: Store) -> None:
    """With its base and what it redoes."""
    job = replace(JOB, base=3, redo=("missing",))
    write_job(root, job)
    assert read_job(root, Job) == job


def test_what_to_do_about_a_lost_manifest_shard_depends_on_the_generation(root: Store) -> None:
    """Listed anew, a later one's objects would be in another order than its base's."""
    assert "delete what has the number 00000003" in explain_relisting(root, 3)
    assert "remove the rest of it" in explain_relisting(generations.open_generation(root, 1), 3)
