"""Rows that are taken over from a base, and those that are not."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.errors import DamagedOutputError
from mnist_ocr.labelling import kept_rows, manifest
from mnist_ocr.labelling.folders import FolderSource
from mnist_ocr.labelling.generations import open_generation
from mnist_ocr.labelling.job import Job, write_job
from mnist_ocr.labelling.manifest_shard import ManifestShard
from mnist_ocr.labelling.new_manifest import replace_objects
from mnist_ocr.labelling.redo import write_redone
from mnist_ocr.labelling.shards import find_receipt, read_receipts, write_predictions
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import ObjectInfo, Store, open_store
from mnist_ocr.traffic import Traffic

STATUSES = ["ok", "empty", "ok", "throttled"]


def predict(statuses: list[str], digit: int) -> Predictions:
    """The same digit for every image that was read."""
    confidence = np.array([0.5 if s == "ok" else np.nan for s in statuses], np.float32)
    probabilities = np.full((len(statuses), 10), np.nan, np.float32)
    probabilities[~np.isnan(confidence)] = np.eye(10, dtype=np.float32)[digit]
    errors = [None if s == "ok" else "Bad." for s in statuses]
    return Predictions.build(probabilities, confidence, statuses, errors)


@pytest.fixture
def root(tmp_path: Path) -> Store:
    """An output."""
    return open_store(str(tmp_path))


@pytest.fixture
def job(root: Store) -> Job:
    """The second generation's, made from the first."""
    return Job(
        job_id="second",
        input_uri="/scans",
        output_uri=open_generation(root, 1).uri,
        extensions=(),
        anonymous=False,
        shard_size=4,
        max_risk=0.1,
        threshold=0.4,
        model_sha256="ab",
        preprocessing_version=1,
        versions={"mnist-ocr": "0"},
        base=0,
    )


@pytest.fixture
def first_job(root: Store, job: Job) -> Job:
    """The first generation's."""
    first_job = replace(job, job_id="first", output_uri=root.uri, base=None)
    write_job(root, first_job)
    return first_job


def write_shard(root: Store, job: Job, shard: int) -> ManifestShard:
    """Four objects, labelled as 7."""
    infos = [ObjectInfo(f"{shard}{i}.png", i, f"etag-{i}") for i in range(4)]
    table = manifest.tabulate(FolderSource(open_store("/scans")), 4 * shard, infos)
    root.write(manifest.shard_name(shard), manifest.encode_rows(table))
    found = manifest.read_shard(root, shard)
    write_predictions(root, job, shard, found, predict(STATUSES, 7), Traffic())
    return found


@pytest.fixture
def shard(root: Store, first_job: Job) -> ManifestShard:
    """That of the first generation."""
    return write_shard(root, first_job, 0)


def ids_of(table: pa.Table) -> list[int]:
    return table["id"].to_pylist()


def test_unchanged_objects_keep_their_rows(
    job: Job, first_job: Job, shard: ManifestShard, root: Store
) -> None:
    """All of them, and nothing is to be read; without a base, none."""
    kept = kept_rows.read_kept(job, 0, shard)
    assert kept.equals(kept_rows.read_rows(root, first_job, 0, shard))
    assert ids_of(kept_rows.find_unread(shard, kept).table) == []
    kept = kept_rows.read_kept(replace(job, base=None), 0, shard)
    assert ids_of(kept_rows.find_unread(shard, kept).table) == [0, 1, 2, 3]


@pytest.mark.parametrize("change", [{"size": 9}, {"etag": "etag-9"}, {"path": "other"}])
def test_changed_objects_are_read(
    change: dict[str, object], job: Job, shard: ManifestShard
) -> None:
    """Another size, etag or path suffices."""
    now = replace(shard, table=replace_objects(shard.table, {2: change}))
    kept = kept_rows.read_kept(job, 0, now)
    assert ids_of(kept) == [0, 1, 3]
    assert ids_of(kept_rows.find_unread(now, kept).table) == [2]


def test_statuses_to_be_redone_are_read(job: Job, shard: ManifestShard) -> None:
    """Whether their objects have changed or not."""
    kept = kept_rows.read_kept(replace(job, redo=("empty", "throttled")), 0, shard)
    assert ids_of(kept) == [0, 2]


def test_shard_that_the_base_has_not_is_all_new(job: Job, shard: ManifestShard) -> None:
    """Its objects came after."""
    assert ids_of(kept_rows.read_kept(job, 1, shard)) == []


def test_shard_of_both_is_in_order(job: Job, shard: ManifestShard, root: Store) -> None:
    """Rows taken over, and new ones between them; the receipt tells them apart."""
    job = replace(job, redo=("empty", "throttled"))
    kept = kept_rows.read_kept(job, 0, shard)
    output = open_generation(root, 1)
    predictions = predict(["ok", "corrupt"], 3)
    receipt = write_predictions(output, job, 0, shard, predictions, Traffic(), kept)
    rows = kept_rows.read_rows(output, job, 0, shard)
    assert ids_of(rows) == [0, 1, 2, 3]
    assert rows["digit"].to_pylist() == [7, 3, 7, None]
    assert rows["status"].to_pylist() == ["ok", "ok", "ok", "corrupt"]
    statuses = rows["status"].combine_chunks().dictionary.to_pylist()
    assert statuses == ["ok", "corrupt"]  # not those of rows that are gone
    assert rows["path"].equals(shard.table["path"])
    assert rows.schema.equals(kept.schema)
    assert receipt.statuses == {"ok": 3, "corrupt": 1}
    assert (receipt.num_images, receipt.num_read, receipt.num_accepted) == (4, 2, 3)
    (info,) = manifest.list_finished_shards(output).values()
    assert list(read_receipts(output, "second", [info])) == [receipt]


def spoil_part(root: Store, job: Job, spoilt: str) -> None:
    """Put something else in the place of the first part."""
    name, other = manifest.part_name(0), open_store(f"{root.uri}/other")
    if spoilt == "cut":
        root.write(name, root.read(name)[:-9])
        return
    if spoilt == "copy":
        write_shard(other, job, 1)
        root.write(name, other.read(manifest.part_name(1)))
        return
    found = manifest.read_shard(root, 0)
    if spoilt == "other objects":
        found = replace(found, sha256="cd")
    elif spoilt == "other rows":
        found = replace(found, table=replace_objects(found.table, {2: {"path": "/scans/x.png"}}))
    elif spoilt == "accepted":
        job = replace(job, threshold=0.9)
    elif spoilt == "other model":
        job = replace(job, model_sha256="cd")
    elif spoilt == "other job":
        job = replace(job, job_id="other")
    write_predictions(other, job, 0, found, predict(STATUSES, 7), Traffic())
    root.write(name, other.read(name))


@pytest.mark.parametrize(
    ("spoilt", "found"),
    [
        ("cut", "is damaged: its bytes"),
        ("copy", "is a copy of part-00000001"),
        ("other job", "is of another job: it has {'job_id': 'other'"),
        ("other model", "is of another job: it has {'job_id': 'first', 'model_sha256': 'cd'"),
        ("other objects", "was made of another manifest shard"),
        ("other rows", "is wrong: column path differs"),
        ("accepted", "is wrong: accepted does not follow"),
    ],
)
def test_damaged_base_is_said(
    spoilt: str, found: str, job: Job, first_job: Job, shard: ManifestShard, root: Store
) -> None:
    """Its rows are not taken over, which would make them pass for sound; nor in a retry."""
    spoil_part(root, first_job, spoilt)
    with pytest.raises(DamagedOutputError, match=re.escape(f"part-00000000.parquet {found}")):
        kept_rows.read_kept(job, 0, shard)
    source, output = FolderSource(open_store("/scans")), open_store(job.output_uri)
    write_job(output, job)
    with pytest.raises(DamagedOutputError, match=re.escape(f"part-00000000.parquet {found}")):
        write_redone(source, root, output, ["throttled"], lambda num_objects: None)


def test_base_without_its_job_is_said(job: Job, shard: ManifestShard, tmp_path: Path) -> None:
    """Nobody knows then what its rows should be of."""
    (tmp_path / "_job.json").unlink()
    with pytest.raises(DamagedOutputError, match=r"_job\.json is missing\. Restore it"):
        kept_rows.read_kept(job, 0, shard)


def test_base_whose_answers_are_cut_is_not_damaged(
    job: Job, shard: ManifestShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may have cut one: it is read again."""
    read, is_cut = LocalStore.read, iter([True, True])

    def cut_some(store: LocalStore, name: str) -> bytes:
        is_part = name.startswith("part-") and next(is_cut, False)
        return read(store, name)[: -9 if is_part else None]

    monkeypatch.setattr(LocalStore, "read", cut_some)
    assert ids_of(kept_rows.read_kept(job, 0, shard)) == [0, 1, 2, 3]


def test_repeated_shard_keeps_what_was_committed_first(
    job: Job, shard: ManifestShard, root: Store
) -> None:
    """It has been counted; on a failing store the second time may come out otherwise."""
    output = open_generation(root, 1)
    assert find_receipt(output, job, 0) is None
    first = write_predictions(output, job, 0, shard, predict(["ok"] * 4, 3), Traffic())
    data = output.read(manifest.part_name(0))
    worse = predict(["ok", "unreadable", "ok", "ok"], 3)
    assert write_predictions(output, job, 0, shard, worse, Traffic()) == first
    assert find_receipt(output, job, 0) == first
    assert output.read(manifest.part_name(0)) == data
