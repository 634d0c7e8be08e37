"""The estimate of how many names there are, against listings that are known."""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from statistics import mean

import pytest

from mnist_ocr.labelling.key_space import KeySpace
from mnist_ocr.storage import PAGE_SIZE, ObjectInfo, Page


class Bucket:
    """Lists names as S3 does."""

    def __init__(self, names: Iterator[str]) -> None:
        self.names = sorted(names)

    def list_page(self, prefix: str, start_after: str) -> Page:
        """Up to a page of names that begin with the prefix."""
        start = bisect_left(self.names, prefix)
        if start_after:
            start = max(start, bisect_right(self.names, start_after))
        page = self.names[start : start + PAGE_SIZE]
        return [ObjectInfo(name, 100, "") for name in page if name.startswith(prefix)]


def name_all(kind: str, number: int) -> Iterator[str]:
    if kind == "hashes":
        return (hashlib.sha1(b"%d" % i).hexdigest() + ".png" for i in range(number))
    if kind == "numbers":
        return (f"scans/2026/forms/crop-{i:09d}.png" for i in range(number))
    if kind == "skewed":  # nine tenths of them under one of five prefixes
        return (f"{'abcde'[i % 5] if i % 10 == 0 else 'c'}/{i}.png" for i in range(number))
    return (f"2026-{i % 12 + 1:02d}-{i % 28 + 1:02d}/{i}.png" for i in range(number))


def estimate(space: KeySpace, num_descents: int) -> list[float]:
    return [
        sum(weight * len(page) for weight, page in space.descend()) for _ in range(num_descents)
    ]


@pytest.mark.parametrize("kind", ["hashes", "numbers", "dates", "skewed"])
def test_estimate_comes_near(kind: str) -> None:
    """Whatever the names look like."""
    number = 100_000
    space = KeySpace(Bucket(name_all(kind, number)).list_page)
    assert mean(estimate(space, 200)) == pytest.approx(number, rel=0.15)


def count_all(space: KeySpace, prefix: str = "") -> int:
    """What a descent finds on average: each child is as likely, and counts as often."""
    node = space._open(prefix)
    return len(node.objects) + sum(count_all(space, child) for child in node.children)


@pytest.mark.parametrize("kind", ["hashes", "numbers", "dates", "skewed", "uneven"])
def test_every_name_has_its_place_in_the_tree(kind: str) -> None:
    """Exactly one, so that the estimate is right on average."""
    names = list(name_all(kind, 30_000))
    if kind == "uneven":
        names = [f"{'a' * depth}{i:06d}" for depth in range(8) for i in range(1500 * depth)]
    space = KeySpace(Bucket(iter(names)).list_page)
    assert count_all(space) == len(set(names))


def test_a_large_bucket_takes_few_requests() -> None:
    """Eight descents into a million hashes: less than the listing, and within a few percent."""
    number = 1_000_000
    space = KeySpace(Bucket(name_all("hashes", number)).list_page)
    assert mean(estimate(space, 8)) == pytest.approx(number, rel=0.05)
    assert space.num_requests < 400


@pytest.mark.parametrize("number", [0, 1, 999, 1000, 1001])
def test_the_ends_of_pages_are_not_lost(number: int) -> None:
    """With names that begin alike for 28 characters, which do not take a request each."""
    space = KeySpace(Bucket(name_all("numbers", number)).list_page)
    assert count_all(space) == number
    assert space.num_requests < 10


def test_a_name_that_others_begin_with_counts() -> None:
    """As the marker of a folder does."""
    names = ["", "a", "a/", *(f"a/{i}" for i in range(2500))]
    space = KeySpace(Bucket(iter(names)).list_page)
    assert count_all(space) == len(names)
