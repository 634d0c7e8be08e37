"""A committee of trained models that a network learns from beside the labels.

Its mean probabilities say which images are ambiguous, or damaged past reading, where a label says
the same of all (Hinton et al. 2015, distillation).
"""

from collections.abc import Sequence

import safetensors.torch
import torch
from torch import Tensor, nn

from mnist_ocr.digits.model import Model
from mnist_ocr.digits.networks import build_network, fold_batch_norm

TEACHER_WEIGHT = 0.7
"""Share of the target that comes from the committee; the rest is the label's."""


class Committee(nn.Module):
    """Reads images as its members do on average.

    Args:
        models: The members, each with its own pixel scale.
        device: Where the images are.
    """

    def __init__(self, models: Sequence[Model], device: torch.device) -> None:
        super().__init__()
        self.members = nn.ModuleList()
        self.scales = [(model.info.mean, model.info.std) for model in models]
        for model in models:
            network = build_network(model.info.architecture)
            network.load_state_dict(safetensors.torch.load(model.weights))
            self.members.append(fold_batch_norm(network))
        self.eval().requires_grad_(False)
        self.to(device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Mean probabilities: (B, 1, 28, 28) float32 from 0 to 1 -> (B, 10) float32.

        In the precision of the training that asks: bfloat16 is good to one part in 250.
        """
        logits = [
            member((inputs - mean) / std).float()
            for member, (mean, std) in zip(self.members, self.scales, strict=True)
        ]
        return torch.stack(logits).softmax(-1).mean(0)
