"""`verify` finds whatever can be wrong with an output."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.labelling import manifest
from mnist_ocr.labelling.bottleneck import RunTimes
from mnist_ocr.labelling.config import VerifyConfig
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.job import Job, ShardJob, read_job, write_job
from mnist_ocr.labelling.manifest_shard import encode_rows, read_shard
from mnist_ocr.labelling.packing import PackJob
from mnist_ocr.labelling.predictions import METADATA_KEY, decode_table, encode_table
from mnist_ocr.labelling.sealing import check_seal
from mnist_ocr.labelling.shards import read_images, write_predictions
from mnist_ocr.labelling.summary import LabelSummary, add_up, write_summary
from mnist_ocr.labelling.verification import verify
from mnist_ocr.local_store import LocalStore
from mnist_ocr.storage import Page, open_store


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


P0, P1, P2, P3 = (f"part-{shard:08d}.parquet" for shard in range(4))
M0, M1, M2, M3 = (f"_manifest/{shard:08d}.arrow" for shard in range(4))
COMPLETE = "_manifest/complete.json"

RERUN = "then run `mnist-ocr label` with the same settings again."
REDO = f"Delete it and _SUCCESS beside it, {RERUN}"
RELIST = "Restore it from a copy. If there is none, delete what has the number"


def find(output: Path) -> list[str]:
    """The problems of an output, each with its remedy."""
    verification = verify(VerifyConfig(str(output)))
    assert verification.num_problems == len(verification.problems)
    return [problem.removeprefix(f"{output}/") for problem in verification.problems]


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **metadata: object) -> None:
    """Make a valid file, with a sha256 of its own."""
    table, old = decode_table(path.read_bytes())
    path.write_bytes(encode_table(change(table), {**old, **metadata}))


def renumber(path: Path, shard: int) -> None:
    receipt = decode_table(path.read_bytes())[1]["receipt"]
    rewrite(path, lambda table: table, receipt={**receipt, "shard": shard})


def flip_digits(table: pa.Table) -> pa.Table:
    digits = pa.array([digit ^ 1 for digit in table["digit"].to_pylist()], pa.int8())
    return table.set_column(2, table.schema.field("digit"), digits)


def forget_digits(table: pa.Table) -> pa.Table:
    return table.set_column(2, table.schema.field("digit"), pa.nulls(len(table), pa.int8()))


def edit_with_pyarrow(path: Path) -> None:
    """As a person would who corrects a digit: the metadata are kept."""
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    kept = {key: value for key, value in metadata.items() if key == METADATA_KEY}
    pq.write_table(flip_digits(table).replace_schema_metadata(kept), path)


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    copy(other, one)
    other.write_bytes(content)


def copy(one: Path, other: Path) -> None:
    other.write_bytes(one.read_bytes())


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def put_part_of_another_job(path: Path) -> None:
    rewrite(path, lambda table: table, job_id="other")


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lambda o: (o / P1).unlink(), [f"{P1} is missing. Delete _SUCCESS beside it, then"]),
        (lambda o: copy(o / P2, o / P3), [f"{P3} is of no shard of the manifest. Move it away."]),
        (lambda o: copy(o / P0, o / P1), [f"{P1} is a copy of {P0}. {REDO}"]),
        (lambda o: swap(o / P0, o / P1), [f"{P0} is a copy of {P1}", f"{P1} is a copy of {P0}"]),
        (
            lambda o: put_part_of_another_job(o / P1),
            [f"{P1} is of another job: it has {{'job_id': 'other'"],
        ),
        (
            lambda o: rewrite(o / P1, lambda table: table, model_sha256="cd"),
            [f"{P1} is of another job: it has {{'job_id': 'job', 'model_sha256': 'cd'"],
        ),
        (lambda o: (o / "x.parquet").touch(), ["x.parquet is none of the job's files. Move it"]),
        (lambda o: (o / "_manifest/x").touch(), ["_manifest/x is none of the job's files. Move"]),
        (lambda o: edit_with_pyarrow(o / P1), [f"{P1} is damaged: its bytes do not have the sha"]),
        (lambda o: pq.write_table(pq.read_table(o / P1), o / P1), [f"{P1} is damaged: its bytes"]),
        (lambda o: (o / P1).write_bytes(b""), [f"{P1} is damaged: its bytes do not have the sha"]),
        (lambda o: (o / P1).write_bytes(encode_table(pa.table({}), {})), [f"{P1} is damaged: 'j"]),
        (
            lambda o: rewrite(o / P0, lambda table: table.slice(1)),
            [f"{P0} is wrong: column id differs from the manifest's, column path differs"],
        ),
        (
            lambda o: rewrite(o / P0, lambda table: pa.concat_tables([table, table])),
            [f"{P0} is wrong: column id differs from the manifest's, column path differs"],
        ),
        (lambda o: rewrite(o / P0, lambda table: table.drop(["error"])), [f"{P0} does not have"]),
        (lambda o: rewrite(o / P0, forget_digits), [f"{P0} is wrong: digit is not there just"]),
        (lambda o: (o / M1).unlink(), [f"{M1} is missing. {RELIST} 00000001 or a higher one"]),
        (lambda o: (o / M2).unlink(), [f"{M2} is missing. {RELIST} 00000002 or a higher one"]),
        (
            lambda o: swap(o / M0, o / M1),
            [f"{name} is not the one that its part was made of. {RELIST}" for name in (M0, M1)],
        ),
        (lambda o: copy(o / M0, o / M1), [f"{M1} is not the one that its part was made of"]),
        (
            lambda o: (
                swap(o / M0, o / M1),
                swap(o / P0, o / P1),
                renumber(o / P0, 0),
                renumber(o / P1, 1),
            ),
            [
                f"{M0} does not hold the ids from 0 on. {RELIST} 00000000",
                f"{M2} does not hold the ids from 4 on. {RELIST} 00000002",
            ],
        ),
        (
            lambda o: (copy(o / M2, o / M3), copy(o / P2, o / P3), renumber(o / P3, 3)),
            [f"{M3} does not hold the ids from 10 on. {RELIST} 00000003 or a higher one"],
        ),
        (lambda o: (o / M1).write_bytes(b""), [f"{M1} is damaged: "]),
        (lambda o: (o / COMPLETE).unlink(), [f"{COMPLETE} is missing. Delete "]),
        (lambda o: (o / COMPLETE).write_text("["), [f"{COMPLETE} is damaged (Expecting value"]),
        (
            lambda o: replace_text(o / COMPLETE, "10", "11"),
            [f"{COMPLETE} counts {{'num_shards': 3, 'num_images': 11}}, the parts have {{'num_sh"],
        ),
        (
            lambda o: replace_text(o / COMPLETE, '"num_shards": 3', '"num_shards": 2'),
            [f"{COMPLETE} counts {{'num_shards': 2, 'num_images': 10}}, the parts have {{'num_sh"],
        ),
        (
            lambda o: replace_text(o / COMPLETE, '"num_shards": 3', '"num_shards": 9'),
            [f"{M3} is m"],
        ),
        (lambda o: (o / "_SUCCESS").write_text("{"), ["_SUCCESS is damaged (Expecting property"]),
        (
            lambda o: replace_text(o / "_SUCCESS", '"ok": 9', '"ok": 8'),
            ["_SUCCESS says statuses {'ok': 8, 'empty': 1}, the parts have {'ok': 9, 'empty': 1}"],
        ),
        (
            lambda o: replace_text(o / "_SUCCESS", '"num_accepted": 9', '"num_accepted": 8'),
            ["_SUCCESS says num_accepted 8, the parts have 9. Delete it, then run `mnist-ocr l"],
        ),
        (
            lambda o: replace_text(o / "_SUCCESS", '"model_sha256": "ab"', '"model_sha256": "cd"'),
            ["_job.json has model_sha256 ab, _SUCCESS has cd. Restore the one that is wrong"],
        ),
        (
            lambda o: replace_text(o / "_job.json", '"mnist-ocr": "0"', '"mnist-ocr": "1"'),
            ["_job.json has versions {'mnist-ocr': '1'}, _SUCCESS has {'mnist-ocr': '0'}"],
        ),
        (lambda o: (o / "_job.json").write_text("{"), ["_job.json is damaged (Expecting property"]),
        (
            lambda o: replace_text(o / "_job.json", '"threshold": 0.05', '"threshold": 0.5'),
            ["_job.json has job_sha256 "],
        ),
    ],
)
def test_harm_is_found(harm: Callable[[Path], object], found: list[str], output: Path) -> None:
    """Each way to spoil an output is one problem a file, which names it and says what to do."""
    harm(output)
    problems = find(output)
    assert len(problems) == len(found), problems
    for problem, beginning in zip(problems, found, strict=True):
        assert problem.startswith(beginning)
        assert problem.endswith(".")


@pytest.mark.parametrize("fault", [StorageUnreachableError("down"), UsageError("expired")])
def test_store_that_fails_is_not_taken_for_damage(
    fault: Exception, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage, or credentials that expire, end the verification; the files may be sound."""
    read = LocalStore.read

    def fail_at_parts(store: LocalStore, name: str, *arguments: object) -> bytes:
        if name.startswith("part-"):
            raise fault
        return read(store, name, *arguments)

    monkeypatch.setattr(LocalStore, "read", fail_at_parts)
    with pytest.raises(type(fault), match=str(fault)):
        verify(VerifyConfig(str(output)))


@pytest.mark.parametrize("name", [P1, M1])
def test_truncated_file_is_found(name: str, output: Path) -> None:
    """Wherever it was cut, it is the one problem."""
    data = (output / name).read_bytes()
    for length in range(0, len(data), 97):
        (output / name).write_bytes(data[:length])
        (problem,) = find(output)
        assert problem.startswith(f"{name} is damaged: ")


@pytest.mark.parametrize("name", [P1, M1])
def test_flipped_bit_is_found(name: str, output: Path) -> None:
    """In whatever a bit of the file means; of a manifest shard its part knows the sha256."""
    data = bytearray((output / name).read_bytes())
    generator = np.random.default_rng(0)
    for position in generator.choice(len(data), 50, replace=False).tolist():
        flipped = data.copy()
        flipped[position] ^= 1 << int(generator.integers(8))
        (output / name).write_bytes(flipped)
        (problem,) = find(output)
        assert problem.startswith((f"{name} is damaged: ", f"{name} is not the one"))


@pytest.mark.parametrize("name", ["_job.json", "_SUCCESS", COMPLETE])
def test_flipped_bit_of_a_document_ends_in_a_sentence(name: str, output: Path) -> None:
    """Where it matters it is a problem, or the folder holds no job; nowhere a traceback."""
    data = bytearray((output / name).read_bytes())
    num_found = 0
    for position in range(0, len(data), 11):
        flipped = data.copy()
        flipped[position] ^= 1 << position % 8
        (output / name).write_bytes(flipped)
        try:
            num_found += bool(find(output))
        except UsageError as error:
            num_found += "another command or version of mnist-ocr" in str(error)
    assert num_found >= (len(data) // 11 if name == COMPLETE else len(data) // 22)


def test_job_under_way_is_unfinished_and_not_damaged(output: Path) -> None:
    """One problem, with how far it is, however much is missing; what is there is checked."""
    (output / "_SUCCESS").unlink()
    (problem,) = find(output)
    assert problem.startswith("The job is unfinished: 3 of 3 shards on record are labelled. Let")
    (output / P1).unlink()
    (output / P2).unlink()
    (output / COMPLETE).unlink()
    (output / f".{P1}.123.tmp").touch()
    (problem,) = find(output)
    assert "1 of 3 shards on record are labelled, and the listing has not ended." in problem
    (output / M2).unlink()
    assert "1 of 2 shards on record" in find(output)[0]
    (output / P0).write_bytes(b"")
    assert find(output)[1].endswith(f"Delete it, {RERUN}")


def test_shard_that_is_added_meanwhile_is_not_foreign(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is listed before the parts; a command that runs writes both in between."""
    (output / "_SUCCESS").unlink()
    (output / COMPLETE).unlink()
    list_all = LocalStore.list

    def list_before_the_last_shard(store: LocalStore, *arguments: str) -> Iterator[Page]:
        return ([i for i in page if i.name != M2] for page in list_all(store, *arguments))

    monkeypatch.setattr(LocalStore, "list", list_before_the_last_shard)
    assert len(find(output)) == 1
    (output / M2).unlink()
    assert find(output)[1] == f"{P2} is of no shard of the manifest. Move it away."


def test_part_that_is_written_again_meanwhile_is_sound(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard whose worker was given up is labelled twice; its rows are the same."""
    list_all = LocalStore.list

    def list_before_the_second_time(store: LocalStore, *arguments: str) -> Iterator[Page]:
        for page in list_all(store, *arguments):
            yield [info._replace(etag="older", size=1) for info in page]

    monkeypatch.setattr(LocalStore, "list", list_before_the_second_time)
    (output / "_SUCCESS").unlink()
    (problem,) = find(output)
    assert problem.startswith("The job is unfinished: 3 of 3 shards")


def test_file_that_cannot_be_read_is_not_to_be_deleted(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right that is missing, or a store that throttles, says nothing of the file."""
    read = LocalStore.read

    def forbid(store: LocalStore, name: str, *arguments: object) -> bytes:
        if name == P1:
            raise ObjectError("forbidden", "No permission.")
        return read(store, name, *arguments)

    monkeypatch.setattr(LocalStore, "read", forbid)
    assert find(output) == [f"{P1} cannot be read: No permission. See to that, then verify again."]


def list_twice(output: Path) -> None:
    """Make the last shard name the objects of the first, with files that are valid."""
    first, last = (read_shard(open_store(str(output)), shard) for shard in (0, 2))
    paths = first.table["path"][: len(last.table)]
    table = last.table.set_column(1, last.table.schema.field("path"), paths)
    data = encode_rows(table)
    (output / M2).write_bytes(data)
    rewrite(
        output / P2,
        lambda rows: rows.set_column(1, rows.schema.field("path"), paths),
        manifest_sha256=check_seal(data),
    )


def test_object_that_is_listed_twice_is_found(output: Path) -> None:
    """By its path, wherever in the manifest."""
    list_twice(output)
    problems = find(output)
    assert len(problems) == 2
    for i, problem in enumerate(problems):
        assert problem.startswith(f"{output.parent}/scans/{i}.png is listed 2 times, in the shards")
        assert "[0, 2]: a fault" in problem


def test_many_problems_are_counted(output: Path) -> None:
    """The first twenty are spelled out."""
    for i in range(50):
        (output / f"foreign-{i}").touch()
    verification = verify(VerifyConfig(str(output)))
    assert verification.num_problems == 50
    assert len(verification.problems) == 20


def add_generation(output: Path, number: int, base: int | None = None) -> Path:
    """Another finished one, with the same rows."""
    folder = output / f"_generations/{number:04d}"
    shutil.copytree(output, folder, ignore=shutil.ignore_patterns("_generations"))
    job = replace(read_job(open_store(str(output)), Job), base=base)
    (folder / "_job.json").unlink()
    write_job(open_store(str(folder)), job)
    replace_text(
        folder / "_SUCCESS",
        json.loads((folder / "_SUCCESS").read_text())["job_sha256"],
        job.job_sha256,
    )
    return folder


@pytest.mark.parametrize(
    ("current", "found"),
    [
        ('{"generation": 1}', ""),
        (None, "_generations/0001 is finished, and newer than the one that is read. Run the"),
        ('{"generation": 0}', "_generations/0001 is finished, and newer than the one"),
        (
            '{"generation": 5}',
            "_generations/0005/_job.json is missing. Restore it from a copy, wri",
        ),
        ('{"generat', "_CURRENT is damaged (Unterminated string"),
        ('{"generation": Infinity}', "_CURRENT is damaged (the generation is inf). Write the"),
        ('{"generation": -1}', "_CURRENT is damaged (the generation is -1). Write the"),
        ('{"generation": true}', "_CURRENT is damaged (the generation is True). Write the"),
    ],
)
def test_wrong_current_is_a_problem(current: str | None, found: str, output: Path) -> None:
    """Readers follow it to rows that are old, or to none."""
    add_generation(output, 1)
    if current is not None:
        (output / "_CURRENT").write_text(current)
    verification = verify(VerifyConfig(str(output)))
    assert verification.num_problems == bool(found)
    assert "".join(verification.problems).removeprefix(f"{output}/").startswith(found)


def test_pruned_output_that_lost_its_current_is_a_problem(output: Path) -> None:
    """Then nothing says which generation is read, and there is none in the folder itself."""
    add_generation(output, 3)
    for path in output.glob("[!_]*"):
        path.unlink()
    shutil.rmtree(output / "_manifest")
    (output / "_job.json").unlink()
    (output / "_SUCCESS").unlink()
    (problem,) = find(output)
    assert problem.startswith("_generations/0003 is finished, and newer than the one that is read")
    assert problem.endswith('_CURRENT: {"generation": 3}.')


def test_part_of_a_generation_with_a_base_is_not_lightly_deleted(output: Path) -> None:
    """Rows of objects that are gone are in no other generation once its base is pruned."""
    folder = add_generation(output, 1, base=0)
    (output / "_CURRENT").write_text('{"generation": 1}')
    assert find(output) == []
    (folder / P0).unlink()
    (folder / P1).write_bytes(b"")
    lost, damaged = find(output)
    for problem, name in ((lost, P0), (damaged, P1)):
        assert problem.startswith(f"_generations/0001/{name} is ")
        assert "Restore it from a copy. If there is none, delete " in problem
        assert "become `missing` if generation 0, which has their rows, is pruned." in problem


def test_job_that_lost_its_job_file_is_a_problem(output: Path) -> None:
    """There is something to verify, though not by what."""
    (output / "_job.json").unlink()
    assert find(output) == [
        "_job.json is missing. Restore it from a copy, or label into another folder."
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("versions", []), ("threshold", "x"), ("base", True), ("job_id", None)]
)
def test_value_of_another_type_is_damage(key: str, value: object, output: Path) -> None:
    """Also while there is no `_SUCCESS` to compare it with."""
    (output / "_SUCCESS").unlink()
    document = json.loads((output / "_job.json").read_text())
    (output / "_job.json").write_text(json.dumps({**document, key: value}))
    assert find(output)[0].startswith(f"_job.json is damaged ({key} is {value!r}). Restore it")


def test_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    """There is nothing to verify, and the message says what was looked for."""
    with pytest.raises(UsageError, match=r"holds no labelling job: there is no _job\.json"):
        verify(VerifyConfig(str(tmp_path)))


def test_packed_output_is_no_labelling_job(output: Path) -> None:
    """It is not damaged either."""
    job = read_job(open_store(str(output)), Job)
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(ShardJob)}
    (output / "_job.json").unlink()
    write_job(open_store(str(output)), PackJob(**fields, format="tar"))
    with pytest.raises(UsageError, match=r"holds no job of `mnist-ocr label`: .* another"):
        verify(VerifyConfig(str(output)))
