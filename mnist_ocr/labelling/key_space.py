"""How many objects lie under a prefix of 100 million, by a few hundred listing requests.

Names make a tree: a node is what they begin with, a child adds a character. A descent starts at the
root and at each node takes one child at random, until what is left fits into a page; what it finds
there counts for as many as there were ways to go. The mean over descents has the true total as its
expectation, whatever the names are (Knuth, Estimating the efficiency of backtrack programs, 1975);
children that fit into a page are counted, not estimated.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from os.path import commonprefix

from mnist_ocr.storage import PAGE_SIZE, Page

LAST_CHARACTER = "\U0010ffff"
"""Behind a prefix: a name behind all names that begin with the prefix."""

Part = tuple[float, Page]
"""Objects that were seen, and how many each of them stands for."""


@dataclass(frozen=True)
class _Node:
    """The names that begin with a prefix."""

    objects: Page
    """Of the children that were seen as a whole."""
    children: list[str]
    """Prefixes of the others."""


class KeySpace:
    """The tree of a store's names.

    Args:
        list_page: (prefix, start_after) -> the first objects, fewer than `PAGE_SIZE` only if there
            are no more.
        seed: Of the choices.
    """

    def __init__(self, list_page: Callable[[str, str], Page], seed: int = 0) -> None:
        self._list_page = list_page
        self._choices = random.Random(seed)
        self._nodes: dict[str, _Node] = {}
        self.num_requests = 0

    def descend(self) -> list[Part]:
        """One descent: the sum of weight times objects is an estimate of all objects."""
        parts: list[Part] = []
        prefix, weight = "", 1.0
        while True:
            if prefix not in self._nodes:
                self._nodes[prefix] = self._open(prefix)
            node = self._nodes[prefix]
            parts.append((weight, node.objects))
            if not node.children:
                return parts
            prefix = self._choices.choice(node.children)
            weight *= len(node.children)

    def _open(self, prefix: str) -> _Node:
        page = self._list(prefix)
        ends = [info.name for info in (*page[:1], *page[-1:])]
        common = commonprefix(ends)  # noqa: RUF071 - by characters, not by folders
        while len(page) == PAGE_SIZE and len(common) > len(prefix) + 1:
            behind = self._list(prefix, common + LAST_CHARACTER)
            if not behind:  # all names go on alike: the node is further down
                prefix = common
                break
            common = commonprefix([common, behind[0].name])  # noqa: RUF071
        objects: Page = []
        children: list[str] = []
        depth = len(prefix) + 1
        while len(page) == PAGE_SIZE:
            child = page[-1].name[:depth]  # goes on behind the page
            objects += [info for info in page if info.name[:depth] != child]
            children.append(child)
            page = self._list(prefix, child + LAST_CHARACTER)
        return _Node(objects + page, children)

    def _list(self, prefix: str, start_after: str = "") -> Page:
        self.num_requests += 1
        return self._list_page(prefix, start_after)
