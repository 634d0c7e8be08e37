"""Cores, memory, open files, disks and the object store."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mnist_ocr.diagnosis.findings import Finding, format_size
from mnist_ocr.diagnosis.raylet import read_flags

MIN_OPEN_FILES, GOOD_OPEN_FILES = 1024, 4096
"""Ray holds a few sockets for each worker and node; it warns below the second, too."""

MIN_MEMORY_BYTES = 10**9
"""Free: Ray ends workers when 95% of the memory is used."""

MIN_DISK_BYTES, GOOD_DISK_BYTES = 10**9, 10**10
"""Free, for spilled objects, checkpoints, temporary tables and logs."""

MAX_DISK_USED = 0.95
"""Ray stores no more objects on a disk that is fuller (`RAY_local_fs_capacity_threshold`)."""

MIN_STORE_BYTES = 80_000_000
"""An object store through which 300,000 images have passed; docs/design.md."""

SHARED_MEMORY = "/dev/shm"

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Disk:
    """A file system."""

    path: str
    purpose: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Hardware:
    """What a machine has, as a process of it may use it."""

    num_cpus: int
    memory_bytes: int | None
    """The machine's, or the container's."""
    free_memory_bytes: int | None
    num_open_files: int
    """That a process may have."""
    disks: tuple[Disk, ...]
    store_folder: str
    """Where the object store is, or would be."""
    shared_memory_bytes: int
    """Size of /dev/shm; 0 where there is none."""


def look_at_hardware() -> Hardware:
    """Facts about this machine."""
    flags = read_flags()
    spill = flags.get("fallback_directory") or os.environ.get("RAY_TMPDIR", "/tmp")
    memory_bytes, free_memory_bytes = _look_at_memory()
    has_shared_memory = Path(SHARED_MEMORY).is_dir()
    return Hardware(
        num_cpus=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_bytes=memory_bytes,
        free_memory_bytes=free_memory_bytes,
        num_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        disks=_look_at_disks({"Ray's spilled objects": spill, "TMPDIR": tempfile.gettempdir()}),
        store_folder=flags.get("plasma_directory") or SHARED_MEMORY,
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).total if has_shared_memory else 0,
    )


def _look_at_disks(folders: Mapping[str, str]) -> tuple[Disk, ...]:
    """The disks of folders by purpose, each disk once."""
    found: dict[int, Disk] = {}
    for purpose, folder in folders.items():
        path = Path(folder)
        while not path.exists():
            path = path.parent
        usage = shutil.disk_usage(path)
        known = found.get(device := path.stat().st_dev)
        purposes = f"{known.purpose} and {purpose}" if known else purpose
        place = known.path if known else str(path)
        found[device] = Disk(place, purposes, usage.total, usage.free)
    return tuple(found.values())


def _look_at_memory() -> tuple[int | None, int | None]:
    """Bytes in all, and free, where Linux says so; a container's limit counts."""
    total = free = None
    with suppress(OSError, KeyError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
    with suppress(OSError, KeyError, ValueError):  # "max" is no limit
        limit = int((CGROUP / "memory.max").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        counts = {name: int(count) for name, count in map(str.split, lines)}
        # the page cache is given back when memory is short; Ray does not count it, either
        cached = counts["inactive_file"] + counts["active_file"]
        used = int((CGROUP / "memory.current").read_text()) - cached
        if total is None or limit < total:
            total, free = limit, min(limit - used, free if free is not None else limit)
    return total, free


def judge_hardware(found: Hardware, in_ray: Mapping[str, float] | None) -> Iterator[Finding]:
    """Findings about a machine.

    Args:
        found: On it.
        in_ray: What Ray takes its node to have: `CPU`, `object_store_memory`, ...; None without
            Ray.
    """
    yield _judge_cpus(found.num_cpus, in_ray)
    if found.memory_bytes is not None and found.free_memory_bytes is not None:
        free = format_size(found.free_memory_bytes)
        text = f"{free} free of {format_size(found.memory_bytes)}"
        if found.free_memory_bytes < MIN_MEMORY_BYTES:
            yield Finding(
                "memory", "warning", f"{text}: Ray ends workers at 95%", "End what else runs there."
            )
        else:
            yield Finding("memory", "ok", text)
    yield _judge_open_files(found.num_open_files)
    yield from map(_judge_disk, found.disks)
    yield _judge_store(found, in_ray)


def _judge_cpus(num_cpus: int, in_ray: Mapping[str, float] | None) -> Finding:
    num_in_ray = None if in_ray is None else in_ray.get("CPU", 0)
    text = f"{num_cpus:,}" + ("" if num_in_ray is None else f", {num_in_ray:g} of them Ray's")
    if num_in_ray is not None and num_in_ray > num_cpus:
        return Finding(
            "cpus",
            "warning",
            f"Ray counts {num_in_ray:g} CPUs, its processes may use {num_cpus:,}",
            f"Start Ray there with --num-cpus={num_cpus}.",
        )
    return Finding("cpus", "ok", text)


def _judge_open_files(number: int) -> Finding:
    if number >= GOOD_OPEN_FILES:
        return Finding("open files", "ok", f"up to {number:,} a process")
    return Finding(
        "open files",
        "problem" if number < MIN_OPEN_FILES else "warning",
        f"a process may have {number:,} only",
        "Run `ulimit -n 65536` before `ray start`, or before the command that starts Ray.",
    )


def _judge_disk(disk: Disk) -> Finding:
    free, total = format_size(disk.free_bytes), format_size(disk.total_bytes)
    text = f"{free} free of {total} in {disk.path} ({disk.purpose})"
    is_full = 1 - disk.free_bytes / max(disk.total_bytes, 1) >= MAX_DISK_USED
    remedy = (
        "Make room, or start Ray there with --object-spilling-directory and TMPDIR on a larger "
        "disk."
    )
    if disk.free_bytes < MIN_DISK_BYTES or is_full:
        return Finding("disk", "problem", text, remedy)
    if disk.free_bytes < GOOD_DISK_BYTES:
        return Finding("disk", "warning", text, remedy)
    return Finding("disk", "ok", text)


def _judge_store(found: Hardware, in_ray: Mapping[str, float] | None) -> Finding:
    shared = f"{SHARED_MEMORY} has {format_size(found.shared_memory_bytes)}"
    bigger = "Give the container more shared memory (docker run --shm-size=8g; a Memory emptyDir)."
    if in_ray is None:
        if found.shared_memory_bytes < 10**9:
            return Finding("object store", "warning", shared, bigger)
        return Finding("object store", "ok", shared)
    size_bytes = in_ray.get("object_store_memory", 0)
    text = f"{format_size(size_bytes)} in {found.store_folder}; {shared}"
    if found.store_folder != SHARED_MEMORY:
        return Finding("object store", "warning", f"{text}: a disk is slower", bigger)
    if size_bytes < MIN_STORE_BYTES:
        remedy = "Start Ray there with --object-store-memory=1000000000 or more."
        return Finding("object store", "warning", text, remedy)
    return Finding("object store", "ok", text)
