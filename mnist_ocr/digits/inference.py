"""The network as it is served by torch, and its export for ONNX Runtime.

images         (N, 28, 28) uint8, white ink on black
logits         (N, 10) float32
probabilities  (N, 10) float32 = softmax(logits / temperature), of one view; what both views and the
               confidence come to is `calibration`'s
"""

import io
import warnings

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.digits.model import Model
from mnist_ocr.digits.networks import build_network, fold_batch_norm


class DigitModel(nn.Module):
    """A network with its normalisation before it and its calibration behind it."""

    def __init__(self, network: nn.Module, *, mean: float, std: float, temperature: float) -> None:
        super().__init__()
        self.network = network
        # one multiply-add per pixel: x / 255 / std - mean / std
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 28, 28) uint8 images -> logits and probabilities, both (N, 10) float32."""
        inputs = images.to(torch.float32).unsqueeze(1) * self.scale + self.shift
        logits = self.network(inputs.contiguous(memory_format=torch.channels_last))
        return logits, torch.softmax(logits / self.temperature, dim=1)


class TorchRuntime:
    """Runs a model by torch, on a GPU where there is one."""

    BATCH_SIZE = 8192
    """Images per forward pass: 26 MB of inputs, enough to fill a large GPU."""

    def __init__(self, model: Model) -> None:
        network = build_network(model.info.architecture)
        network.load_state_dict(safetensors.torch.load(model.weights))
        info = model.info
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = DigitModel(
            fold_batch_norm(network),
            mean=info.mean,
            std=info.std,
            temperature=info.calibration.temperature,
        ).to(self._device)
        self._model.to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 28, 28) uint8 -> (N, 10) float32 logits."""
        results = np.empty((len(images), NUM_CLASSES), np.float32)
        for start in range(0, len(images), self.BATCH_SIZE):
            # images out of Ray's object store are read-only, which torch warns of
            batch = torch.from_numpy(
                np.require(images[start : start + self.BATCH_SIZE], requirements="W")
            )
            if self._device.type == "cuda":
                batch = batch.pin_memory().to(self._device, non_blocking=True)
            logits, _ = self._model(batch)
            results[start : start + len(batch)] = logits.cpu().numpy()
        return results


def export_onnx(model: DigitModel) -> bytes:
    """The model as an ONNX file: `images` (N, 28, 28) uint8 -> `logits`, `probabilities`."""
    example = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    names = {"images": ["images"], "outputs": ["logits", "probabilities"]}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # torch's newer exporter needs onnxscript and gains these networks nothing
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            model.cpu().eval(),
            (example,),
            file,  # type: ignore[arg-type]  # the signature forgets file objects
            input_names=names["images"],
            output_names=names["outputs"],
            dynamic_axes={name: {0: "n"} for name in names["images"] + names["outputs"]},
            dynamo=False,
        )
    return file.getvalue()
