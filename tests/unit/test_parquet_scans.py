from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scans import EXPECTED, LABELS, PNGS, assert_all_there, load, pixels_and_labels, write_parquet

from mnist_ocr.errors import UsageError

STRUCTS = [{"bytes": png, "path": "x.png"} for png in PNGS]
STRINGS = [str(label) for label in LABELS]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (PNGS, LABELS),
        (pa.array(PNGS, pa.large_binary()), pa.array(LABELS, pa.int8())),
        (STRUCTS, STRINGS),
        (PNGS, pa.array(STRINGS).dictionary_encode()),
        (PNGS, [float(label) for label in LABELS]),
    ],
)
def test_parquet_columns_of_every_usual_type(
    images: object, labels: object, tmp_path: Path
) -> None:
    """Bytes, or a struct with bytes as Hugging Face writes it; integers, strings, whole floats."""
    assert_all_there(load(write_parquet(tmp_path / "scans.parquet", images, labels)))


def test_folder_of_parquet_files_with_other_columns(tmp_path: Path) -> None:
    """Files at any depth are read; a folder may itself be called .parquet, as Spark writes it."""
    folder = tmp_path / "scans.parquet"
    write_parquet(folder / "a.parquet", PNGS[:50], LABELS[:50], place=["x"] * 50)
    write_parquet(folder / "more/b.PARQUET", PNGS[50:], LABELS[50:])
    assert_all_there(load(folder))
    (folder / "_SUCCESS").touch()
    assert load(folder).skipped == {"not_parquet": 1}


def test_columns_can_be_named(tmp_path: Path) -> None:
    """--image-column and --label-column choose among columns."""
    write_parquet(tmp_path / "a.parquet", [b"no"] * 100, [0] * 100, scan=PNGS, digit=LABELS)
    assert_all_there(load(tmp_path / "a.parquet", image_column="scan", label_column="digit"))


def test_parquet_rows_without_image_or_label_are_counted(tmp_path: Path) -> None:
    """A null, a struct without bytes, a NaN: the row is skipped, its neighbours keep theirs."""
    labels = [float(label) for label in LABELS] + [None, float("nan"), 3.0, 3.0, 3.0]
    images = [*STRUCTS, STRUCTS[0], STRUCTS[1], None, {"bytes": None, "path": "y"}, {"bytes": b"z"}]
    dataset = load(write_parquet(tmp_path / "a.parquet", images, labels))
    assert dataset.skipped == {"no_label": 2, "no_image": 2, "not_an_image": 1}
    assert pixels_and_labels(dataset.train, dataset.validation, dataset.test) == EXPECTED


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"image_column": "scan"},
            r"needs one column 'scan'; .* image, label. Pass --image-column",
        ),
        ({"label_column": "digit"}, r"'digit'; its columns are image, label. Pass --label-column"),
        ({"image_column": "label"}, r"'label' of .* is int64, not encoded images .*--image-column"),
        ({"label_column": "image"}, r"'image' of .* is binary, not digits.*--label-column"),
    ],
)
def test_wrong_column_names_those_there_are(
    tmp_path: Path, options: dict[str, str], match: str
) -> None:
    """The message has the columns of the file and the flag to set."""
    write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=match):
        load(tmp_path, **options)


@pytest.mark.parametrize("label", [10, -1, "ten", " 3", 2.5, True, [3]])
def test_label_that_is_no_digit_is_named(tmp_path: Path, label: object) -> None:
    """One such row is a mistake about all: classes from 1 to 10, or another column."""
    labels = [label] * 100 if isinstance(label, bool | list) else [type(label)(1)] * 99 + [label]
    write_parquet(tmp_path / "a.parquet", PNGS, labels)
    with pytest.raises(UsageError, match=r"'label' of .* (holds|is) .*--label-column"):
        load(tmp_path)


def test_damaged_parquet_is_one_sentence(tmp_path: Path) -> None:
    """Cut at any place, with noise in it, without rows, or something else altogether."""
    path = write_parquet(tmp_path / "a.parquet")
    whole = path.read_bytes()
    for content in (
        b"",
        b"PAR1",
        whole[:-1],
        whole[: len(whole) // 2],
        whole[:4] + bytes(16) + whole[20:],
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"a\.parquet is no sound Parquet file: .* Copy it"):
            load(path)
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": []}), path)
    with pytest.raises(UsageError, match=r"No usable image .* no rows"):
        load(path)
    with pytest.raises(UsageError, match=r"no file .*none.parquet.* Pass a .parquet"):
        load(tmp_path / "none.parquet")
