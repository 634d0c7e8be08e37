"""The networks that read digits, and the table of them.

Shapes: B batch; C channels; H, W height and width; a network maps `inputs` (B, 1, 28, 28)
float32, normalised, to `logits` (B, 10) float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

NUM_CLASSES = 10


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the *global* batch, however many workers share it.

    With plain batch normalisation the result would depend on the number of workers; torch's
    SyncBatchNorm runs on GPUs only.
    """

    # Narrower than the base class, which can do without them.
    weight: nn.Parameter
    bias: nn.Parameter
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W), with the statistics of all workers' batches while training."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        moments = torch.stack([input.mean((0, 2, 3)), input.square().mean((0, 2, 3))])
        mean, mean_square = _AverageOverWorkers.apply(moments)
        variance = mean_square - mean.square()
        count = input.numel() // input.shape[1] * dist.get_world_size()
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalized: Tensor = input * scale[:, None, None] + shift[:, None, None]
        return normalized


class _AverageOverWorkers(torch.autograd.Function):
    """The mean of a tensor over all workers; gradients are averaged the same way."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _average_over_workers(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _average_over_workers(gradient)


def _average_over_workers(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _build_mlp(hidden_sizes: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    size = 28 * 28
    for hidden_size in hidden_sizes:
        layers += [nn.Linear(size, hidden_size), nn.ReLU()]
        size = hidden_size
    return nn.Sequential(*layers, nn.Linear(size, NUM_CLASSES))


def _build_cnn() -> nn.Module:
    """Build the compact CNN: a 5x5 stride-2 stem and four 3x3 layers, 141k parameters, 5.9 MMAC."""
    return nn.Sequential(
        *_build_convolution(1, 32, kernel_size=5, stride=2),  # (B, 32, 14, 14)
        *_build_convolution(32, 32, kernel_size=3, stride=1),
        *_build_convolution(32, 64, kernel_size=3, stride=2),  # (B, 64, 7, 7)
        *_build_convolution(64, 64, kernel_size=3, stride=1),
        *_build_convolution(64, 128, kernel_size=3, stride=2),  # (B, 128, 4, 4)
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, NUM_CLASSES),
    )


def _build_convolution(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int
) -> list[nn.Module]:
    # The bias is the normalisation's.
    padding = kernel_size // 2
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
        GlobalBatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "mlp-128": lambda: _build_mlp([128]),
    "cnn": _build_cnn,
}


def build_network(architecture: str) -> nn.Module:
    """Build a network with freshly drawn weights (from torch's global generator).

    Args:
        architecture: A name in `ARCHITECTURES`.

    Returns:
        A module from (B, 1, 28, 28) float32 to (B, 10) float32 logits.

    Raises:
        ValueError: The architecture is not known.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"Unknown architecture {architecture!r}. Choose one of: {known}.")
    return ARCHITECTURES[architecture]()
