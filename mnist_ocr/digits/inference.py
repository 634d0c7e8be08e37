"""The network as it is served by torch, and its export for ONNX Runtime.

images         (N, 28, 28) uint8, white ink on black
logits         (N, 10) float32
probabilities  (N, 10) float32 = softmax(logits / temperature), of one view; what both views and the
               confidence come to is `calibration`'s
"""

import io
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_ocr.digits.calibration import NUM_CLASSES
from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.digits.model import Model
from mnist_ocr.digits.networks import build_network, fold_batch_norm

MIN_BATCH_SIZE = 1024
"""Images per forward pass, on a CPU always: 3 MB of inputs."""

BATCH_SIZES = [MIN_BATCH_SIZE << i for i in range(6)]
"""Those that a GPU is tried with."""

NUM_TRIALS, NEAR_BEST = 5, 0.95
"""Forward passes timed for each, and the share of the best rate that is good enough."""


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
    """Runs a model by torch; on a GPU, copies and the network's work overlap."""

    def __init__(self, model: Model) -> None:
        network = build_network(model.info.architecture)
        network.load_state_dict(safetensors.torch.load(model.weights))
        info = model.info
        self._is_gpu = torch.cuda.is_available()
        self._device = torch.device("cuda" if self._is_gpu else "cpu")
        self._model = DigitModel(
            fold_batch_norm(network),
            mean=info.mean,
            std=info.std,
            temperature=info.calibration.temperature,
        ).to(self._device)
        self._model.to(memory_format=torch.channels_last).eval()
        self._copying = torch.cuda.Stream() if self._is_gpu else None  # type: ignore[no-untyped-call]
        self.batch_size = self._find_batch_size() if self._is_gpu else MIN_BATCH_SIZE

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 28, 28) uint8 -> (N, 10) float32 logits."""
        results = torch.empty((len(images), NUM_CLASSES), pin_memory=self._is_gpu)
        starts = range(0, len(images), self.batch_size)
        chunks = [images[start : start + self.batch_size] for start in starts]
        for start, chunk in zip(starts, self._load(chunks), strict=True):
            logits, _ = self._model(chunk)
            results[start : start + len(chunk)].copy_(logits, non_blocking=True)
        if self._is_gpu:
            torch.cuda.synchronize()
        return results.numpy()

    def _load(self, chunks: Sequence[NDArray[np.uint8]]) -> Iterator[Tensor]:
        """Chunks on the device, each copied while the network works on the one before."""
        if self._copying is None:
            # images out of Ray's object store are read-only, which torch warns of
            yield from (torch.from_numpy(np.require(chunk, requirements="W")) for chunk in chunks)
            return
        computing, ahead = torch.cuda.current_stream(), deque[Tensor]()
        for chunk in chunks:
            pinned = torch.empty(chunk.shape, dtype=torch.uint8, pin_memory=True)
            np.copyto(pinned.numpy(), chunk)
            with torch.cuda.stream(self._copying):
                ahead.append(pinned.to(self._device, non_blocking=True))
                copied = self._copying.record_event()
            if len(ahead) > 1:
                yield ahead.popleft()
            computing.wait_event(copied)
            ahead[-1].record_stream(computing)
        yield from ahead

    @torch.inference_mode()
    def _find_batch_size(self) -> int:
        """The smallest one that comes near the best rate; what memory does not hold is none."""
        seconds_per_image = {}
        for batch_size in BATCH_SIZES:
            images = torch.zeros(
                batch_size, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, device=self._device
            )
            try:
                self._model(images)  # the first time kernels are chosen
                torch.cuda.synchronize()
                started = perf_counter()
                for _ in range(NUM_TRIALS):
                    self._model(images)
                torch.cuda.synchronize()
            except torch.cuda.OutOfMemoryError:
                break
            seconds_per_image[batch_size] = (perf_counter() - started) / batch_size
        limit = min(seconds_per_image.values(), default=0) / NEAR_BEST
        return next((size for size, s in seconds_per_image.items() if s <= limit), MIN_BATCH_SIZE)


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
