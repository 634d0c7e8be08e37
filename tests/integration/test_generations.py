"""Jobs over time: `label --update`, `--relabel`, `retry` and `prune`, and what readers see."""

from collections import Counter
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pandas as pd
import pytest
from archives import pack_tar
from proxies import Answer, proxy
from services import S3Server, label_at

import mnist_ocr
from mnist_ocr.digits.calibration import Calibration, Threshold
from mnist_ocr.digits.model import save_model
from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.config import LabelConfig, PruneConfig, RetryConfig, VerifyConfig
from mnist_ocr.labelling.label import label
from mnist_ocr.labelling.prune import prune
from mnist_ocr.labelling.report import Progress
from mnist_ocr.labelling.retry import retry
from mnist_ocr.labelling.verification import verify
from mnist_ocr.storage import open_store

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def images(digit_images: np.ndarray) -> list[bytes]:
    """256 PNG files."""
    return [cv2.imencode(".png", image)[1].tobytes() for image in digit_images]


@pytest.fixture
def scans(tmp_path: Path, images: list[bytes]) -> Path:
    """A folder of 100 of them."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i, image in enumerate(images[:100]):
        (folder / f"{i:03d}.png").write_bytes(image)
    return folder


def config_for(scans: Path | str, output: Path | str, model_uri: str, **options) -> LabelConfig:
    options = {"num_gpus_per_actor": 0.0, "shard_size": 32, **options}
    return LabelConfig(str(scans), str(output), model_uri=model_uri, **options)


def read_rows(output: Path) -> pd.DataFrame:
    """The current rows."""
    return pd.read_parquet(mnist_ocr.labels_uri(str(output))).sort_values("id", ignore_index=True)


def find_problems(output: Path | str) -> list[str]:
    return verify(VerifyConfig(str(output))).problems


def grow(scans: Path, images: list[bytes]) -> None:
    """Three objects change, two go, ten come, one of them before all others."""
    for i in (0, 40, 99):
        (scans / f"{i:03d}.png").write_bytes(images[200 + i // 10])
    for i in (10, 11):
        (scans / f"{i:03d}.png").unlink()
    for i in range(9):
        (scans / f"1{i:02d}.png").write_bytes(images[100 + i])
    (scans / "!.png").write_bytes(images[150])


@pytest.mark.parametrize("gpus", [0.0, 0.5], ids=["fused", "staged"])
def test_update_labels_what_is_new_or_has_changed(
    gpus: float, scans: Path, tmp_path: Path, images: list[bytes], model_uri: str
) -> None:
    """Rows of the others are taken over; ids stay, new ones go on; the old generation is whole."""
    output = tmp_path / "out"
    options = {"num_gpus_per_actor": gpus, "num_actors": 1}
    config = config_for(scans, output, model_uri, update=True, **options)
    first = label(config)  # there is nothing to update yet
    assert (first.output_uri, first.num_images_this_run) == (str(output), 100)
    before = read_rows(output)
    grow(scans, images)
    summary = label(config)
    assert summary.output_uri == mnist_ocr.labels_uri(str(output))
    assert summary.output_uri == str(output / "_generations/0001")
    assert (summary.num_images, summary.num_images_this_run) == (110, 13)
    assert summary.requests_per_image == 1
    rows = read_rows(output)
    assert rows["id"].tolist() == list(range(110))
    assert rows["path"][:100].tolist() == before["path"].tolist()
    assert sorted(rows["path"][100:]) == sorted(
        str(scans / name) for name in ["!.png", *(f"1{i:02d}.png" for i in range(9))]
    )
    changed = [
        i for i in range(100) if not rows.loc[i].astype(str).equals(before.loc[i].astype(str))
    ]
    assert changed == [0, 40, 99]
    assert find_problems(output) == []
    label(config_for(scans, tmp_path / "anew", model_uri, **options))
    anew = read_rows(tmp_path / "anew").set_index("path").drop(columns="id")
    kept = rows.set_index("path").drop(columns="id").loc[anew.index]
    pd.testing.assert_frame_equal(kept, anew)  # as of a job that saw it all at once
    # who reads the folder itself sees the first generation, and nothing of the others
    pd.testing.assert_frame_equal(
        pd.read_parquet(output).sort_values("id", ignore_index=True), before
    )
    assert duckdb.sql(f"select count(*) from '{output}/*.parquet'").fetchall() == [(100,)]


@pytest.fixture(scope="session")
def other_model_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that reads other digits than `model_uri`."""
    import torch

    from mnist_ocr.digits.networks import build_network

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("other-model")
    calibration = Calibration(temperature=1.5, thresholds=(Threshold(0.001, 0.15, {}, {}),))
    save_model(
        str(folder),
        build_network("mlp-128"),
        architecture="mlp-128",
        mean=0.13,
        std=0.31,
        calibration=calibration,
        metrics={},
        training={},
        data={},
    )
    return str(folder)


def test_relabelling_switches_at_the_end(
    scans: Path, tmp_path: Path, model_uri: str, other_model_uri: str
) -> None:
    """Readers see the old rows until then, also if it is interrupted; then the old ones can go."""
    output = tmp_path / "out"
    label(config_for(scans, output, model_uri))
    before = read_rows(output)
    with pytest.raises(UsageError, match="Pass --relabel"):
        label(config_for(scans, output, other_model_uri))
    config = config_for(scans, output, other_model_uri, relabel=True, shard_size=4)
    num_seen = 0

    def look(progress: Progress) -> None:
        nonlocal num_seen
        pd.testing.assert_frame_equal(read_rows(output), before)
        num_seen += 1
        if num_seen == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(config, look)
    with pytest.raises(UsageError, match="0001 is a generation that another command has begun"):
        label(config_for(scans, output, model_uri, update=True))
    summary = label(config, look)
    assert num_seen > 2
    assert 0 < summary.num_images_this_run < 100
    rows = read_rows(output)
    assert rows["path"].tolist() == before["path"].tolist()
    assert rows["digit"].tolist() != before["digit"].tolist()
    again = label(config)
    assert (again.num_images_this_run, again.output_uri) == (0, str(output / "_generations/0001"))
    assert prune(PruneConfig(str(output))).generation_uris == [str(output)]
    assert not list(output.glob("part-*"))
    pd.testing.assert_frame_equal(read_rows(output), rows)
    assert find_problems(output) == []
    with pytest.raises(UsageError, match="Pass --relabel"):
        label(config_for(scans, output, model_uri))


class Requests:
    """Counts the GETs of a proxy by object, and answers some with a status of its own."""

    def __init__(self) -> None:
        self.gets: Counter[str] = Counter()
        self.answers: dict[str, int] = {}

    def __call__(self, method: str, path: str, _: object) -> Answer | None:
        """An answer, or None for the server's."""
        name = path.partition("?")[0].rpartition("/")[2]
        if method != "GET" or not name.endswith((".png", ".tar")):
            return None
        if name in self.answers:
            return Answer(self.answers[name], b"")
        self.gets[name] += 1
        return None

    def take(self) -> Counter[str]:
        """Those since this was last called."""
        gets, self.gets = self.gets, Counter()
        return gets


def test_only_what_has_to_be_is_fetched_from_s3(
    rclone_server: S3Server,
    tmp_path: Path,
    images: list[bytes],
    model_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An update fetches new and changed objects, a retry those of its rows, both once."""
    folder = rclone_server.make_bucket("growing") / "scans"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:03d}.png").write_bytes(images[i])
    for name, start in {"a.tar": 100, "b.tar": 110}.items():
        members = {f"{i}.png": images[start + i] for i in range(10)}
        (folder / name).write_bytes(pack_tar(members))
    options = ["--num-gpus-per-actor", "0", "--model-uri", model_uri]
    update = ["s3://growing/scans", "s3://growing/out", "--shard-size", "32", "--update", *options]
    requests = Requests()
    requests.answers = {"005.png": 404, "050.png": 403}
    with proxy(rclone_server, requests) as endpoint:
        first = label_at(endpoint, *update)
        assert first["statuses"] == {"ok": 78, "missing": 1, "forbidden": 1}
        assert find_problems("s3://growing/out") == []

        scans = open_store("s3://growing/scans")  # the server would not see new files
        scans.write("007.png", images[207])
        scans.write("060.png", images[60])
        scans.write("b.tar", pack_tar({f"{i}.png": images[110 + i] for i in range(11)}))
        requests.take()
        second = label_at(endpoint, *update)
        gets = requests.take()
        assert gets.pop("000.png") == 1  # to see whether the input may be read
        assert gets.keys() == {"007.png", "060.png", "a.tar", "b.tar"}  # tars are listed again
        assert gets["a.tar"] < gets["b.tar"]
        assert (gets["007.png"], gets["060.png"]) == (1, 1)
        assert second["num_images"] == 82
        assert second["num_images_this_run"] == 1 + 1 + 11
        assert second["statuses"] == {"ok": 80, "missing": 1, "forbidden": 1}

        requests.answers = {}
        nothing = label_at(endpoint, *update)
        assert {name for name in requests.take() if name.endswith("g")} == {"000.png"}
        assert (nothing["num_images_this_run"], nothing["output_uri"]) == (0, second["output_uri"])
        assert not list(open_store("s3://growing/out").list("_generations/0002/"))

        status = ["--status", "missing,forbidden"]
        third = label_at(endpoint, "s3://growing/out", *status, *options, command="retry")
        assert requests.take() == {"000.png": 1, "005.png": 1, "050.png": 1}
        assert third["output_uri"] == "s3://growing/out/_generations/0002"
        assert (third["num_images"], third["num_images_this_run"]) == (82, 2)
        assert third["statuses"] == {"ok": 82}
        done = label_at(endpoint, "s3://growing/out", *status, *options, command="retry")
        assert (done["num_images_this_run"], done["output_uri"]) == (0, third["output_uri"])
    assert find_problems("s3://growing/out") == []
    assert find_problems(third["output_uri"]) == []
    pruned = prune(PruneConfig("s3://growing/out"))
    assert pruned.generation_uris == ["s3://growing/out", second["output_uri"]]
    assert find_problems("s3://growing/out") == []
    names = [info.name for page in open_store("s3://growing/out").list() for info in page]
    assert {name.partition("/")[0] for name in names} == {"_CURRENT", "_generations"}
    assert {name.split("/")[1] for name in names if "/" in name} == {"0002"}


def test_retry_reads_objects_as_they_are_now(
    scans: Path, tmp_path: Path, images: list[bytes], model_uri: str, other_model_uri: str
) -> None:
    """One that was gone has come back, another is still gone; a wrong model is refused."""
    for i in (3, 70, 71):
        (scans / f"{i:03d}.png").unlink()
        (scans / f"{i:03d}.png").symlink_to(scans / "nowhere.png")
    output = tmp_path / "out"
    label(config_for(scans, output, model_uri))
    (scans / "003.png").unlink()
    (scans / "003.png").write_bytes(images[3])
    (scans / "070.png").unlink()
    (scans / "070.png").write_bytes(images[70])
    options = {"num_gpus_per_actor": 0.0}
    with pytest.raises(UsageError, match=r"model_sha256 was .* retry with the one that made them"):
        retry(RetryConfig(str(output), model_uri=other_model_uri, **options))
    config = RetryConfig(str(output), "missing", model_uri, **options)
    summary = retry(config)
    assert summary.statuses == {"ok": 99, "missing": 1}
    assert summary.num_images_this_run == 3
    rows = read_rows(output)
    assert rows.loc[rows["status"] != "ok", "path"].tolist() == [str(scans / "071.png")]
    assert find_problems(output) == []
    (scans / "071.png").unlink()
    (scans / "071.png").write_bytes(images[71])
    assert label(config_for(scans, output, model_uri, update=True)).num_images_this_run == 1
    label(config_for(scans, tmp_path / "anew", model_uri))
    pd.testing.assert_frame_equal(read_rows(output), read_rows(tmp_path / "anew"))
