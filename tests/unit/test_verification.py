"""`verify` finds whatever can be wrong with an output."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.errors import StorageUnreachableError, UsageError
from mnist_ocr.labelling import manifest
from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import Job, write_job
from mnist_ocr.labelling.predictions import decode_table, encode_table
from mnist_ocr.labelling.shards import read_images, write_predictions
from mnist_ocr.labelling.summary import LabelSummary, add_up, write_summary
from mnist_ocr.labelling.verification import verify
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import open_store


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished job of three shards, ten rows, one of them unreadable."""
    scans, folder = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for i in range(9):
        image = np.zeros((28, 28), np.uint8)
        image[i : i + 9, 10:15] = 255
        (scans / f"{i}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (scans / "9.png").write_bytes(b"")
    source, store = open_source(str(scans)), open_store(str(folder))
    job = Job(
        job_id="job",
        input_uri=source.uri,
        output_uri=store.uri,
        extensions=(),
        anonymous=False,
        shard_size=4,
        max_risk=0.1,
        threshold=0.05,
        model_sha256="ab",
        preprocessing_version=1,
        versions={"mnist-ocr": "0"},
    )
    write_job(store, job)
    receipts = []
    for shard in manifest.iterate_shards(source, store, shard_size=4):
        rows = manifest.read_shard(store, shard)
        batch, traffic = read_images(source, rows)
        confidence = np.where(batch.is_ok, np.float32(0.1), np.float32("nan"))
        probabilities = confidence[:, None].repeat(10, axis=1)
        predictions = Predictions.build(probabilities, confidence, batch.status, batch.error)
        receipts.append(write_predictions(store, job, shard, rows, predictions, traffic))
    times = RunTimes(seconds={}, wall_s=1.0, num_cpus=1, num_gpus=0, num_images=10)
    fields = add_up(job, [], receipts, times, wall_s=1.0)
    write_summary(store, LabelSummary(**fields, model_sha256="ab", num_accepted=9))
    return folder


def test_whole_job_has_no_problems(output: Path) -> None:
    """And its rows are counted by status."""
    verification = verify(VerifyConfig(str(output)))
    assert verification.problems == []
    assert (verification.num_images, verification.num_shards) == (10, 3)
    assert verification.statuses == {"ok": 9, "empty": 1}


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **metadata: str) -> None:
    table, old = decode_table(path.read_bytes())
    path.write_bytes(encode_table(change(table), {**old, **metadata}))


def flip_digits(table: pa.Table) -> pa.Table:
    """Other digits, as a flipped bit makes them; Parquet itself does not notice."""
    digits = pa.array([digit ^ 1 for digit in table["digit"].to_pylist()], pa.int8())
    return table.set_column(2, table.schema.field("digit"), digits)


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def forget_digits(table: pa.Table) -> pa.Table:
    return table.set_column(2, table.schema.field("digit"), pa.nulls(len(table), pa.int8()))


def accept_none(table: pa.Table) -> pa.Table:
    return table.set_column(5, table.schema.field("accepted"), pa.array([False] * len(table)))


P0, P1 = "part-00000000.parquet", "part-00000001.parquet"


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lambda o: (o / P1).unlink(), f"{P1} is missing"),
        (lambda o: (o / P1).write_bytes((o / P1).read_bytes()[:200]), "Shard 1 cannot be read"),
        (lambda o: rewrite(o / P1, flip_digits), f"{P1}: the rows do not have their sha256"),
        (lambda o: swap(o / P0, o / P1), f"{P0}: column id differs"),
        (lambda o: (o / P1).write_bytes((o / P0).read_bytes()), f"{P1}: column path differs"),
        (lambda o: rewrite(o / P0, lambda t: t.slice(1)), f"{P0}: column id differs"),
        (lambda o: rewrite(o / P0, lambda t: pa.concat_tables([t, t])), "column id differs"),
        (lambda o: rewrite(o / P0, lambda t: t.drop(["error"])), f"{P0} does not have the schema"),
        (lambda o: rewrite(o / P0, lambda t: t, model_sha256="cd"), "of another job or model"),
        (lambda o: rewrite(o / P0, forget_digits), "digit must be there just"),
        (lambda o: rewrite(o / P0, accept_none), "accepted does not follow"),
        (lambda o: (o / "part-00000007.parquet").touch(), "belongs to no manifest shard"),
        (lambda o: (o / "extra.parquet").touch(), "extra.parquet is foreign"),
        (lambda o: (o / "_manifest/00000001.arrow").unlink(), "00000001.arrow is missing"),
        (lambda o: (o / "_manifest/complete.json").unlink(), "The listing has not ended"),
        (lambda o: (o / "_SUCCESS").unlink(), "There is no _SUCCESS"),
        (lambda o: (o / "_SUCCESS").write_text("{"), "_SUCCESS or _manifest/complete.json cannot"),
        (lambda o: (o / "_manifest/00000001.arrow").write_bytes(b""), "Shard 1 cannot be read"),
        (
            lambda o: (o / "_SUCCESS").write_text(
                (o / "_SUCCESS").read_text().replace('"ok": 9', '"ok": 8')
            ),
            "_SUCCESS counts {'ok': 8, 'empty': 1}, the rows {'ok': 9, 'empty': 1}",
        ),
    ],
)
def test_harm_is_found(harm: Callable[[Path], object], found: str, output: Path) -> None:
    """Each way to spoil an output is a problem that names the file or the count."""
    harm(output)
    problems = verify(VerifyConfig(str(output))).problems
    assert any(found in problem for problem in problems)


def test_one_missing_file_is_one_problem_and_a_count(output: Path) -> None:
    """What stands behind a gap is not blamed for it; hidden files are nobody's rows."""
    (output / P1).unlink()
    (output / f".{P1}.123.tmp").touch()
    assert len(verify(VerifyConfig(str(output))).problems) == 3  # the file, and two counts


@pytest.mark.parametrize("fault", [StorageUnreachableError("down"), UsageError("expired")])
def test_store_that_fails_is_not_taken_for_damage(
    fault: Exception, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage, or credentials that expire, end the verification; the files may be sound."""
    read = LocalStore.read

    def fail_at_parts(
        store: LocalStore, name: str, etag: str = "", max_bytes: int | None = None
    ) -> bytes:
        if name.startswith("part-"):
            raise fault
        return read(store, name, etag)

    monkeypatch.setattr(LocalStore, "read", fail_at_parts)
    with pytest.raises(type(fault), match=str(fault)):
        verify(VerifyConfig(str(output)))


def test_many_problems_are_counted(output: Path) -> None:
    """The first twenty are spelled out."""
    for i in range(50):
        (output / f"foreign-{i}").touch()
    verification = verify(VerifyConfig(str(output)))
    assert verification.num_problems == 50
    assert len(verification.problems) == 20


def test_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    """There is nothing to verify, and the message says what was looked for."""
    with pytest.raises(UsageError, match=r"holds no labelling job: there is no _job\.json"):
        verify(VerifyConfig(str(tmp_path)))
