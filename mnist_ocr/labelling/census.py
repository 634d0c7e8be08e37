"""Objects by kind, and a sample of each: how `plan` counts."""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mnist_ocr.labelling.archives import archive_of, find_format
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.storage import ObjectInfo

SAMPLE_SIZE = 256
"""Objects of each kind that are read, by each process that times them; half are warming up."""

MAX_KINDS = 8
"""More are too many to time one by one, and to read about: the rarest become one."""

MAX_SAMPLE_BYTES = 16 * 1024**2
"""The same in bytes; one object may be larger."""

_ENDING = re.compile(r"(?:[.-]idx3-ubyte|\.tar)?(?:\.[a-z]\w{0,7})?$")


@dataclass
class Kind:
    """Objects whose names end alike."""

    ending: str
    """`.png`, `.tar.gz`, `-idx3-ubyte`, ..., or nothing."""
    num_objects: float = 0
    size_bytes: float = 0
    num_images: float = 0
    """The objects themselves, or the members of archives."""
    is_archive: bool = False
    num_in_stream: float = 0
    """Images that are read from the first of them on, a compressed archive or a row group of
    Parquet; 0 where each has a place of its own."""
    sample: list[ObjectInfo] = field(default_factory=list)
    """Images, drawn at random; of an archive neighbours, as a worker reads them."""

    @property
    def is_listed_by_reading(self) -> bool:
        """Archives without a directory."""
        return self.is_archive and self.ending.endswith((".tar", ".tgz", ".gz"))


class Census:
    """Objects by kind, with a sample of each."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self.prefixes: set[str] = set()
        self._choices = random.Random(0)
        self._num_seen: dict[str, int] = {}
        self._archives: set[str] = set()

    def add(self, infos: Iterable[ObjectInfo], weight: float = 1.0) -> None:
        """Count objects, each as `weight` of them."""
        for info in infos:
            is_member = bool("\t" in info.etag and Locator.parse(info.etag).position)
            name = archive_of(info.name) if is_member else info.name
            ending = find_ending(name)
            kind = self.kinds.setdefault(ending, Kind(ending))
            kind.is_archive |= is_member or bool(find_format(name))
            if not is_member or name not in self._archives:
                kind.num_objects += weight
                self.prefixes.add(name.partition("/")[0] if "/" in name else "")
            if is_member:
                self._archives.add(name)
            kind.num_images += weight
            kind.size_bytes += weight * max(info.size, 0)
            if not is_member:
                self._sample(kind, info)
            elif len(kind.sample) < SAMPLE_SIZE:
                kind.sample.append(info)

    def _sample(self, kind: Kind, info: ObjectInfo) -> None:
        """Reservoir sampling: every object seen has the same chance."""
        seen = self._num_seen[kind.ending] = self._num_seen.get(kind.ending, 0) + 1
        if len(kind.sample) < SAMPLE_SIZE:
            kind.sample.append(info)
        elif (i := self._choices.randrange(seen)) < SAMPLE_SIZE:
            kind.sample[i] = info


def find_ending(name: str) -> str:
    """What tells an object's kind, in its name."""
    match = _ENDING.search(name.lower())
    return match[0] if match else ""


def merge_rare(kinds: list[Kind]) -> list[Kind]:
    """The most frequent, archives apart, and one for all others."""
    archives = [kind for kind in kinds if kind.is_archive]
    kinds = sorted((k for k in kinds if not k.is_archive), key=lambda kind: -kind.num_objects)
    rare = kinds[MAX_KINDS - 1 :]
    if len(rare) < 2:
        return archives + kinds
    other = Kind("others", sample=[info for kind in rare for info in kind.sample])
    random.Random(0).shuffle(other.sample)
    del other.sample[SAMPLE_SIZE:]
    for name in ("num_objects", "size_bytes", "num_images"):
        setattr(other, name, sum(getattr(kind, name) for kind in rare))
    return [*archives, *kinds[: MAX_KINDS - 1], other]


def limit_bytes(sample: list[ObjectInfo]) -> list[ObjectInfo]:
    """As many as have `MAX_SAMPLE_BYTES` together, one at least."""
    chosen: list[ObjectInfo] = []
    num_bytes = 0
    for info in sample:
        num_bytes += max(info.size, 0)
        if chosen and num_bytes > MAX_SAMPLE_BYTES:
            break
        chosen.append(info)
    return chosen
