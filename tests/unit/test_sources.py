"""What is listed: patterns, and which outputs lie within an input."""

from pathlib import Path

import pytest
from archives import pack_tar

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.inputs import open_source
from mnist_ocr.labelling.manifest import check_input

FILES = (
    "2026-01/crops/a.png",
    "2026-01/crops/deep/b.png",
    "2026-02/crops/c.png",
    "2026-02/crops/c.jpg",
    "2026-02/other/d.png",
    "2027-01/crops/e.png",
    "top.png",
    "x[1].png",
)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of files at several depths."""
    for name in FILES:
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "scans"


def list_names(uri: str, *extensions: str) -> list[str]:
    return [info.name for info in open_source(uri, extensions).list()]


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("2026-*/crops/*.png", [0, 2]),
        ("2026-*/crops/**/*.png", [0, 1, 2]),
        ("**/*.png", [0, 1, 2, 4, 5, 6, 7]),
        ("2026-0[12]/*/?.[pj][np]g", [0, 3, 2, 4]),
        ("2026-*/", [0, 1, 3, 2, 4]),
        ("2026-*/**", [0, 1, 3, 2, 4]),
        ("*", [6, 7]),
        ("x[[]1].png", [7]),
    ],
)
def test_pattern_chooses_objects(pattern: str, chosen: list[int], scans: Path) -> None:
    """As in a shell: `*` stays within a folder, `**` does not; a slash at the end takes folders."""
    assert list_names(f"{scans}/{pattern}") == [FILES[i] for i in chosen]


def test_pattern_is_listed_on_from_any_object(scans: Path) -> None:
    """And chooses archives, whose members the extensions choose."""
    (scans / "2026-02/crops/s.tar").write_bytes(pack_tar({"1.png": b"1", "1.txt": b"x"}))
    source = open_source(f"{scans}/2026-*/crops/*", (".png",))
    infos = list(source.list())
    assert [info.name for info in infos] == [FILES[0], FILES[2], "2026-02/crops/s.tar::1.png"]
    for i, info in enumerate(infos):
        assert list(source.list(info)) == infos[i + 1 :]
    assert source.uri == f"{scans}/2026-*/crops/*"
    assert source.uri_of(infos[0].name) == f"{scans}/{FILES[0]}"


def test_pattern_that_matches_nothing_is_said(scans: Path) -> None:
    """As an empty folder is."""
    with pytest.raises(UsageError, match=r"No objects under .*/\*\.gif"):
        check_input(open_source(f"{scans}/*.gif"))
    with pytest.raises(UsageError, match="Name the bucket"):
        open_source("s3://scans-*/a.png")


def test_folder_with_a_wildcard_in_its_name(scans: Path) -> None:
    """A local folder that exists is no pattern."""
    (scans / "x[2]").mkdir()
    (scans / "x[2]/a.png").write_bytes(b"x")
    assert list_names(f"{scans}/x[2]") == ["a.png"]


@pytest.mark.parametrize(
    ("uri", "output", "holds"),
    [
        ("", "out", True),
        ("*/*.png", "out", False),
        ("**", "out", True),
        ("**/*.png", "out", False),
        ("**/*.parquet", "out", True),
        ("a.tar", "out", False),
        ("", "../out", False),
    ],
)
def test_output_within_the_input_is_noticed(
    uri: str, output: str, holds: bool, scans: Path
) -> None:
    """Only if what it will hold could be listed as input."""
    (scans / "a.tar").write_bytes(b"")
    folder = str((scans / output).resolve())
    assert open_source(f"{scans}/{uri}").holds(folder) == holds


def test_what_is_no_pattern_is_said(scans: Path) -> None:
    """`**` stands for whole folders; one sentence, no traceback."""
    with pytest.raises(UsageError, match=r"\*\*\.png is no pattern"):
        open_source(f"{scans}/**.png")
