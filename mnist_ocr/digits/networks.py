"""The networks that read digits, by name.

Shapes: B batch; C channels; H, W height and width; a network maps `inputs` (B, 1, 28, 28)
float32, normalised, to `logits` (B, 10) float32.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.errors import UsageError


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
        if input.dtype == torch.bfloat16:  # too coarse for sums
            input = input.float()
        # Sums, not means: workers' shares of a batch may differ by an image.
        own_count = input.new_tensor([input.numel() // input.shape[1]])
        sums = torch.cat([input.sum((0, 2, 3)), input.square().sum((0, 2, 3)), own_count])
        total, total_square, count = _SumOverWorkers.apply(sums).split([*[input.shape[1]] * 2, 1])
        mean = total / count
        variance = total_square / count - mean.square()
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_((variance * count / (count - 1)).detach(), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalized: Tensor = input * scale[:, None, None] + shift[:, None, None]
        return normalized


class _SumOverWorkers(torch.autograd.Function):
    """The sum of a tensor over all workers; so are its gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _sum_over_workers(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum_over_workers(gradient)


def _sum_over_workers(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def _build_mlp(hidden_sizes: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    size = 28 * 28
    for hidden_size in hidden_sizes:
        layers += [nn.Linear(size, hidden_size), nn.ReLU()]
        size = hidden_size
    return nn.Sequential(*layers, nn.Linear(size, NUM_CLASSES))


def _build_cnn(layers: Sequence[str]) -> nn.Module:
    """Build a stack of convolutions as `ARCHITECTURES` spells it, averaged over the picture."""
    modules: list[nn.Module] = []
    channels = 1
    for layer in layers:
        if layer == "p":
            modules.append(nn.MaxPool2d(2))
            continue
        width, size, stride, is_residual = _parse_layer(layer)
        convolution = _build_convolution(channels, width, kernel_size=size, stride=stride)
        if is_residual:
            modules += [Residual(*convolution), nn.ReLU(inplace=True)]
        else:
            modules += [*convolution, nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(
        *modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, NUM_CLASSES)
    )


def _parse_layer(layer: str) -> tuple[int, int, int, bool]:
    """Channels, kernel size, stride, and whether what comes in is added to what comes out."""
    match = re.fullmatch(_LAYER, layer)
    assert match is not None, layer
    channels, size, stride, residual = match.groups()
    return int(channels), int(size[1:]) if size else 3, 2 if stride else 1, residual is not None


class Residual(nn.Sequential):
    """Layers whose input is added to their output (He et al. 2016)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        output = input
        for layer in self:
            output = layer(output)
        return output + input


def _build_convolution(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int
) -> list[nn.Module]:
    # The bias is the normalisation's.
    padding = kernel_size // 2
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
        GlobalBatchNorm2d(out_channels),
    ]


def _build_lenet() -> nn.Module:
    """Build LeNet's shape with today's parts: two 5x5 convolutions, max pooling, ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # (B, 16, 14, 14)
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # (B, 32, 7, 7)
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(inplace=True),
        nn.Linear(128, NUM_CLASSES),
    )


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """The same network in fewer steps, for inference: each normalisation put into its convolution.

    Args:
        network: As `build_network` builds it; it is left as it is.
    """
    network = copy.deepcopy(network).eval()
    for module in [each for each in network.modules() if isinstance(each, nn.Sequential)]:
        for i in range(len(module) - 1):
            convolution, normalization = module[i], module[i + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(normalization, nn.BatchNorm2d):
                module[i] = fuse_conv_bn_eval(convolution, normalization)
                module[i + 1] = nn.Identity()
    return network


ARCHITECTURES = "mlp-SIZE[-SIZE...], lenet, cnn, cnn-WIDTH, conv-LAYER[-LAYER...]"
"""The networks by name: a multilayer perceptron with hidden layers of these sizes, ... WIDTH is the
number of channels after the stem, 32 unless given; LAYER is the number of channels of a 3x3
convolution, `x5` behind it makes it 5x5, `s2` gives it stride 2, `r` adds its input to its output;
or it is `p`, maxima of 2x2."""

_LAYER = r"([1-9]\d{0,3})(x[57])?(s2)?(r)?"


def build_network(architecture: str) -> nn.Module:
    """Build a network with freshly drawn weights (from torch's global generator).

    Args:
        architecture: A name, as `ARCHITECTURES` lists them.

    Returns:
        A module from (B, 1, 28, 28) float32 to (B, 10) float32 logits.

    Raises:
        UsageError: The architecture is not known.
    """
    if not re.fullmatch(
        rf"mlp(-[1-9]\d{{0,4}})+|lenet|cnn(-[1-9]\d{{0,3}})?|conv(-{_LAYER}|-p)+", architecture
    ):
        raise UsageError(f"Unknown architecture {architecture!r}. Choose one of: {ARCHITECTURES}.")
    kind, *sizes = architecture.split("-")
    if kind == "mlp":
        return _build_mlp([int(size) for size in sizes])
    if kind == "lenet":
        return _build_lenet()
    if kind == "conv":
        return _build_cnn(sizes)
    # a 5x5 stem and four 3x3 layers; with a width of 32: 141k parameters, 5.9 MMAC
    width = int(sizes[0]) if sizes else 32
    return _build_cnn(
        [f"{width}x5s2", f"{width}", f"{2 * width}s2", f"{2 * width}", f"{4 * width}s2"]
    )


def count_parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_mmacs(network: nn.Module) -> float:
    """Millions of multiply-adds for one image, of the convolutions and linear layers."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(2, 1, 28, 28))  # two: a matrix product of one row is counted elsewhere
    return counter.get_total_flops() / 2 / 2 / 1e6
