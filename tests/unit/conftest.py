"""Unit tests: no Ray cluster, no network."""

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session", autouse=True)
def no_ray() -> Iterator[None]:
    """Let a test that would start Ray fail instead."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a unit test may not start Ray: move it to tests/integration")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", refuse)
        yield
