"""Random numbers that do not depend on how many workers share a batch.

They are drawn for the *global* batch from one generator, and each worker keeps its own rows.
"""

import numpy as np
import torch
from torch import Tensor


class Draw:
    """Draws numbers for `count` images, and keeps the rows of this worker's n of them.

    Args:
        generator: Drawn from in the same order by all workers.
        count: Images over all workers.
        rows: Which of them are this worker's: a slice, or (n,) int64 indices.
    """

    def __init__(self, generator: torch.Generator, count: int, rows: slice | Tensor) -> None:
        self.generator, self.count, self.rows = generator, count, rows

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(n, *shape) float32 from `low` to `high`."""
        numbers = torch.rand(
            self.count, *shape, generator=self.generator, device=self.generator.device
        )
        return numbers[self.rows] * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """(n, *shape) float32 with mean 0 and deviation 1."""
        numbers = torch.randn(
            self.count, *shape, generator=self.generator, device=self.generator.device
        )
        return numbers[self.rows]

    def chance(self, share: float, *shape: int) -> Tensor:
        """(n, *shape) bool, true with this probability."""
        return self.uniform(0, 1, *shape) < share


def seed_generator(generator: torch.Generator, *numbers: int) -> None:
    """Seed with several numbers; `SeedSequence` mixes them (a sum or product would collide)."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    generator.manual_seed(int(mixed[0]))
