"""Sums over the images of an epoch, kept on the device, so that no step waits for a number."""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class EpochTotals:
    """What all workers have counted of an epoch, so far."""

    num_steps: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    """Of the losses of its images, in nats."""
    num_right: float = 0.0
    num_images: float = 0.0

    @property
    def loss(self) -> float:
        """Mean of an image's loss, in nats."""
        return self.loss_sum / self.num_images

    @property
    def accuracy(self) -> float:
        """Share of the images read rightly."""
        return self.num_right / self.num_images


class EpochSums:
    """What this worker adds to an epoch.

    Args:
        device: Where the sums are kept.
        done: What lies behind an epoch that goes on; one worker alone may count it, the others its
            steps only.
    """

    def __init__(self, device: torch.device, done: EpochTotals | None = None) -> None:
        done = done or EpochTotals()
        self.num_steps = done.num_steps
        self._seconds_done = done.seconds
        self.go_on()
        self._sums = torch.tensor([done.loss_sum, done.num_right, done.num_images], device=device)

    def go_on(self) -> None:
        """The epoch's time runs from here."""
        self._start = time.perf_counter() - self._seconds_done

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a step: its loss, summed over images; (B, 10) logits; (B,) labels."""
        self.num_steps += 1
        self._sums[0] += loss
        self._sums[1] += (logits.argmax(1) == labels).sum()
        self._sums[2] += len(labels)

    def sum_over_workers(self) -> EpochTotals:
        """What all workers have counted; all of them have to ask."""
        sums = self._sums.clone()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
        values = sums.tolist()  # waits for the device
        return EpochTotals(self.num_steps, time.perf_counter() - self._start, *values)
