"""Archives and lists made to exhaust a worker, or to reach what is not theirs: rows, cheaply.

Read in a child process, whose death is a failed test and not the run's. Run as a script, this file
is that child: FOLDER.
"""

import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_corpora import peak_mb

from mnist_ocr.errors import UsageError
from mnist_ocr.labelling.inputs import open_source

MB = 1024**2

MAX_CPU_S = 4.0
MAX_RSS_MB = 700
"""Pages of Parquet may have 256 MiB."""


def gunzips_to(num_bytes: int, start: bytes = b"") -> bytes:
    """Gzip of zeros, of a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(16 * MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + head + block * (num_bytes // (16 * MB))


def tar_header(kind: bytes = tarfile.REGTYPE, size: int = 0, name: str = "a.png") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(kind: bytes, keys: range) -> bytes:
    """An extended header of many keys."""
    keywords = (b" k%d=\n" % key for key in keys)
    records = b"".join(b"%d%b" % (len(keyword) + 2, keyword) for keyword in keywords)
    return tar_header(kind, len(records)) + records + bytes(-len(records) % 512)


def sparse_tar() -> bytes:
    info, body = tarfile.TarInfo("a"), b"999999999\n" + b"0\n" * (10 * MB)
    numbers = {"major": "1", "minor": "0", "name": "a", "realsize": "10"}
    info.pax_headers = {f"GNU.sparse.{key}": value for key, value in numbers.items()}
    info.size = len(body)
    return info.tobuf(tarfile.PAX_FORMAT) + body


def zip_of(names: list[bytes], content: bytes) -> bytes:
    """All names for the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", content)
    data = buffer.getvalue()
    start = data.index(b"PK\1\2")
    entry = bytearray(data[start : start + 46])
    entries = []
    for name in names:
        struct.pack_into("<H", entry, 28, len(name))
        entries.append(bytes(entry) + name)
    directory, count = b"".join(entries), len(names) & 0xFFFF
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)
    return data[:start] + directory + end


def parquet(values: pa.Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": values}), buffer, compression="zstd", **options)
    return buffer.getvalue()


def repeated() -> pa.Array:
    """One large value many times."""
    indices = pa.array([0] * 64, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array([bytes(40 * MB)]))


def list_of(uri: str | None, num_rows: int) -> bytes:
    """One URI many times, as Parquet."""
    buffer = io.BytesIO()
    uris = pa.DictionaryArray.from_arrays(pa.array([0] * num_rows, pa.int32()), pa.array([uri]))
    table = pa.table({"uri": uris.cast(pa.string())})
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "member.tar.gz": ("too_large", lambda: gunzips_to(10_240 * MB, tar_header(size=2**33 - 1))),
    "pages.idx.gz": (
        "too_large",
        lambda: gunzips_to(10_240 * MB, struct.pack(">4sIII", b"\0\0\10\3", 2**32 - 1, 6000, 6000)),
    ),
    "rows.idx.gz": (
        "corrupt",
        lambda: gunzips_to(64 * MB, struct.pack(">4sIII", b"\0\0\10\3", 2**32 - 1, 1, 1)),
    ),
    "pages.idx": ("corrupt", lambda: struct.pack(">4sIII", b"\0\0\10\3", 9, 2**32 - 1, 2**32 - 1)),
    "line.txt.gz": ("usage", lambda: gunzips_to(10_240 * MB)),
    "lines.txt.gz": ("usage", lambda: gzip.compress(b"a\n" * MB)),
    "value.parquet": ("usage", lambda: list_of("s3://b/" + "a" * MB, 40)),
    "lines.parquet": ("usage", lambda: list_of("a.png", MB)),
    "nulls.parquet": ("usage", lambda: list_of(None, MB)),
    "long.tar.gz": (
        "too_large",
        lambda: gzip.compress(
            (tar_header(tarfile.GNUTYPE_LONGNAME, MB // 2) + b"x" * (MB // 2) + tar_header()) * 9
            + bytes(10_240)
        ),
    ),
    "line.csv": ("usage", lambda: b"x" * (50 * MB)),
    "keys.tar": ("too_large", lambda: pax(tarfile.XHDTYPE, range(10**6, 2 * 10**6))),
    "chain.tar": ("too_large", lambda: pax(tarfile.XHDTYPE, range(1000, 9999)) * 1000),
    "globals.tar": (
        "corrupt",
        lambda: b"".join(
            pax(tarfile.XGLTYPE, range(start, start + 1000)) + tar_header()
            for start in range(10**4, 10**5, 1000)
        ),
    ),
    "sparse.tar": ("too_large", sparse_tar),
    "name.tar": (
        "too_large",
        lambda: tar_header(tarfile.GNUTYPE_LONGNAME, 20 * MB) + b"x" * (20 * MB) + tar_header(),
    ),
    "directory.zip": ("too_large", lambda: zip_of([b""] * (65 * MB // 46), b"")),
    "names.zip": ("corrupt", lambda: zip_of([b"%d" % i for i in range(1000)], bytes(100 * MB))),
    "rows.parquet": ("corrupt", lambda: parquet(pa.nulls(10**7, pa.binary()))),
    "repeated.parquet": (
        "not_an_image",
        lambda: parquet(repeated(), dictionary_pagesize_limit=2**30),
    ),
    "page.parquet": (
        "too_large",
        lambda: parquet(pa.array([bytes(100 * MB)] * 4), use_dictionary=False),
    ),
}
"""Status of the last row by name, and what builds the file."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each, by name."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, __file__, str(folder)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"died after {lines[-1:]}: {child.stderr[-2000:]}"
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_rows(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    """With a reason at its end, within the limits; a list says it in a sentence."""
    outcome = outcomes[name]
    assert outcome["status"] == HOSTILE[name][0]
    assert outcome["cpu_s"] < MAX_CPU_S
    assert outcome["rss_mb"] < MAX_RSS_MB


def test_list_is_no_longer_than_compression_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few bytes of Parquet may be many long URIs."""
    monkeypatch.setattr("mnist_ocr.labelling.list_files.FREE_BYTES", 1000)
    (tmp_path / "list.parquet").write_bytes(list_of("a" * 10_000, 500))
    with pytest.raises(UsageError, match=r"bytes hold over .* characters"):
        list(open_source(str(tmp_path / "list.parquet")).list())


def read(path: Path) -> str:
    """List, read the last rows, and say what the very last came to."""
    try:
        source = open_source(str(path))
        infos = list(source.list())
        for content in source.read_many(infos[-4:]):
            status = getattr(content, "status", "not_an_image")
    except UsageError:
        return "usage"
    return status


def read_all(folder: Path) -> None:
    """Say for each file what became of it, in one line of JSON, at once."""
    for name, (_, build) in HOSTILE.items():
        (folder / name).write_bytes(build())
        pa.default_memory_pool().release_unused()
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.process_time()
        status = read(folder / name)
        cpu_s = time.process_time() - started
        outcome = {"name": name, "status": status, "cpu_s": cpu_s, "rss_mb": peak_mb()}
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
        (folder / name).unlink()


if __name__ == "__main__":
    read_all(Path(sys.argv[1]))
