"""When a run looks for a preemption, without Ray and without a clock."""

from types import SimpleNamespace
from typing import Any

import pytest

from mnist_ocr.training import worker
from mnist_ocr.training.worker import FIRST_LOOK, LOOK_INTERVAL_S, PreemptionWatch


class Run:
    """Takes steps of a length; looks and saves are noted with their time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.notice_at = 0.0, float("inf")
        self.looks: list[float] = []
        self.saves: list[float] = []
        train = SimpleNamespace(get_preemption_info=self.look)
        monkeypatch.setattr(worker, "ray_v2", SimpleNamespace(train=train))
        monkeypatch.setattr(worker.time, "monotonic", lambda: self.now)
        loop: Any = SimpleNamespace(rank=0, world_size=1)
        self.watch = PreemptionWatch(loop, lambda: self.saves.append(self.now))

    def look(self) -> object:
        """Instead of `ray.train.get_preemption_info`."""
        self.looks.append(self.now)
        return "notice" if self.now >= self.notice_at else None

    def step(self, number: int, seconds: float) -> None:
        """Take some steps."""
        for _ in range(number):
            self.now += seconds
            self.watch.after_step()


@pytest.mark.parametrize("step_s", [0.0005, 0.02, 1.0, 20.0])
def test_looks_come_every_few_seconds(step_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a step takes; a look is not for free."""
    run = Run(monkeypatch)
    run.step(FIRST_LOOK, step_s)
    assert len(run.looks) == 1
    run.step(int(300 / step_s), step_s)
    gaps = [b - a for a, b in zip(run.looks[2:], run.looks[3:], strict=False)]
    assert gaps == pytest.approx([max(LOOK_INTERVAL_S, step_s)] * len(gaps), rel=0.1)
    assert len(gaps) > 10
    assert not run.saves


def test_run_is_saved_until_its_node_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the notice, and every few seconds after it."""
    run = Run(monkeypatch)
    run.notice_at = 100.0
    run.step(2000, 0.1)
    assert 100 <= run.saves[0] <= 100 + 1.1 * LOOK_INTERVAL_S
    assert run.saves == [look for look in run.looks if look >= 100]
    assert len(run.saves) >= 18
