"""Which Ray cluster a command works on."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._common.utils import get_ray_address_file

from mnist_ocr import log_lines
from mnist_ocr.session import connect_ray


@pytest.fixture(autouse=True)
def joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bool]:
    """How often Ray was asked to join or start a cluster; it has none yet, and does not."""
    calls: list[bool] = []
    for name in ("RAY_ADDRESS", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(log_lines, "_bound", {})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: calls.append(True))
    context = SimpleNamespace(get_job_id=lambda: "01000000")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    return calls


@pytest.fixture
def gone() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def write_note(address: str) -> Path:
    """What `ray start` leaves behind."""
    note = Path(get_ray_address_file(None))
    note.parent.mkdir()
    note.write_text(address)
    return note


def test_a_cluster_that_is_gone_is_said_to_be(
    gone: str, monkeypatch: pytest.MonkeyPatch, joined: list[bool]
) -> None:
    """At once; Ray itself would ask for ever."""
    monkeypatch.setenv("RAY_ADDRESS", gone)
    with pytest.raises(ConnectionError, match=rf"at {gone}, which RAY_ADDRESS names \(.*refused"):
        connect_ray()
    assert not joined


@pytest.mark.parametrize("address", [None, "", "auto"])
def test_so_is_one_that_ray_start_has_left_behind(
    address: str | None, gone: str, monkeypatch: pytest.MonkeyPatch, joined: list[bool]
) -> None:
    """With the file to remove; where the address is given, nobody looks at that."""
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    note = write_note(gone)
    with pytest.raises(ConnectionError, match=re.escape(f"or remove {note}: without it")):
        connect_ray()
    assert not joined
    monkeypatch.setenv("RAY_ADDRESS", "local")
    connect_ray()
    assert joined


@pytest.mark.parametrize("is_noted", [False, True])
def test_a_cluster_that_listens_is_joined(
    is_noted: bool, monkeypatch: pytest.MonkeyPatch, joined: list[bool]
) -> None:
    """Wherever its address comes from."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        if is_noted:
            write_note(address + "\n")
        else:
            monkeypatch.setenv("RAY_ADDRESS", address)
        connect_ray()
    assert joined


@pytest.mark.parametrize("address", [None, "local", "ray://10.255.255.1:10001"])
def test_what_names_no_head_is_left_to_ray(
    address: str | None, monkeypatch: pytest.MonkeyPatch, joined: list[bool]
) -> None:
    """It starts a cluster, or knows another way to it."""
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    connect_ray()
    assert joined
