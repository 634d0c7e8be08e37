"""`DigitClassifier`: images in, predictions out. The Python API, without Ray.

classifier = DigitClassifier.load()  # the model that comes with the package
predictions = classifier.predict(["scans/1.png", Path("2.jpg").read_bytes(), array])
predictions.digit        # (3,) int8
predictions.confidence   # (3,) float32
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.batch import ImageBatch, prepare_images
from mnist_ocr.digits.calibration import NUM_CLASSES, Views
from mnist_ocr.digits.model import Model, load_model
from mnist_ocr.errors import ObjectError
from mnist_ocr.storage import Store, open_store, resolve_uri

ImageSource = bytes | str | PathLike[str] | NDArray[np.uint8]
"""Encoded bytes, a path or URI, or a grey page (H, W) uint8."""

NOT_A_DIGIT = "not_a_digit"
"""Status of an image that was read, with so little confidence that it is hardly a digit."""

NOT_A_DIGIT_ERROR = "The image was read, but it hardly looks like a digit."


@dataclass(frozen=True)
class Predictions:
    """One entry per image, in order, named like the columns of the Parquet output.

    An image whose status is neither `ok` nor `not_a_digit` was not read.
    """

    digit: NDArray[np.int8]
    """(N,) most likely digit; -1 where nothing was read (NumPy has no null integer)."""
    confidence: NDArray[np.float32]
    """(N,) calibrated probability that `digit` is right; NaN where nothing was read."""
    probabilities: NDArray[np.float32]
    """(N, 10) of each digit, each row summing to 1; NaN where nothing was read."""
    status: NDArray[np.str_]
    """(N,) `ok`, `not_a_digit`, `blank`, or why there is no image (docs/predictions.md)."""
    error: list[str | None]
    """A sentence for a person where the status is not `ok`."""

    @classmethod
    def build(
        cls,
        probabilities: NDArray[np.float32],
        confidence: NDArray[np.float32],
        status: list[str],
        error: list[str | None],
    ) -> Self:
        """Derive the digit from (N, 10) probabilities, NaN where nothing was read."""
        digit = np.where(np.isnan(confidence), -1, probabilities.argmax(axis=1)).astype(np.int8)
        return cls(digit, confidence, probabilities, np.array(status, np.str_), error)


class Runtime(Protocol):
    """What runs the network: ONNX Runtime on a CPU, torch on a GPU."""

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 28, 28) uint8 -> (N, 10) float32 logits."""


class OnnxRuntime:
    """Runs `model.onnx` on the CPU: 1.5 times torch's rate, and torch is never imported."""

    BATCH_SIZE = 64
    """Images per forward pass: a compact CNN's activations stay in the second-level cache. 512 take
    it 9% longer, on one core or two; they would take an MLP 0.1 us less of an image's 1.4."""

    def __init__(self, model: Model, num_threads: int | None) -> None:
        # or it identifies the machine in the user's home and reports to Microsoft, from 1.31 on
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0  # 0: one per core
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(
            model.onnx, options, providers=["CPUExecutionProvider"]
        )

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 28, 28) uint8 -> (N, 10) float32 logits."""
        logits = np.empty((len(images), NUM_CLASSES), np.float32)
        for start in range(0, len(images), self.BATCH_SIZE):
            batch = images[start : start + self.BATCH_SIZE]
            logits[start : start + len(batch)] = self._session.run(["logits"], {"images": batch})[0]
        return logits


class DigitClassifier:
    """A model, loaded and ready to read digits."""

    def __init__(
        self,
        model: Model,
        *,
        runtime: Literal["onnx", "torch"] = "onnx",
        num_threads: int | None = None,
    ) -> None:
        self.model = model
        self._runtime: Runtime
        if runtime == "onnx":
            self._runtime = OnnxRuntime(model, num_threads)
        else:
            from mnist_ocr.digits.inference import TorchRuntime

            self._runtime = TorchRuntime(model)

    @classmethod
    def load(
        cls,
        model_uri: str | None = None,
        *,
        runtime: Literal["onnx", "torch"] = "onnx",
        num_threads: int | None = None,
    ) -> Self:
        """Load a model directory, local or on any store.

        Args:
            model_uri: What `mnist-ocr train` wrote; None for the model that comes with the package.
            runtime: `onnx` for CPUs; `torch` for a GPU, if there is one.
            num_threads: CPU threads of ONNX Runtime; None for one per core.

        Raises:
            UsageError: it is not a model directory, or it is damaged.
        """
        return cls(load_model(model_uri), runtime=runtime, num_threads=num_threads)

    def predict(self, images: NDArray[np.uint8] | Sequence[ImageSource]) -> Predictions:
        """Read one digit per image. Bad data is a status in the result, never an exception.

        Args:
            images: (N, H, W) uint8 grey pages, MNIST's (N, 28, 28) among them; or a list in which
                each item is a grey page (H, W) uint8, an encoded image, or a path or URI.

        Raises:
            TypeError: an item is none of these.
        """
        if isinstance(images, (str, bytes, PathLike)):
            raise TypeError(f"predict takes a list of images, not one {type(images).__name__}")
        return self.predict_batch(prepare_images(_read_sources(images), len(images)))

    def predict_batch(self, batch: ImageBatch) -> Predictions:
        """Read one digit per prepared image."""
        calibration, rows = self.model.info.calibration, batch.is_ok
        probabilities = np.full((len(rows), NUM_CLASSES), np.nan, np.float32)
        confidence = np.full(len(rows), np.nan, np.float32)
        reading = calibration.read(compute_views(batch, self.logits))
        probabilities[rows], confidence[rows] = reading
        status, error = list(batch.status), list(batch.error)
        # NaN, where nothing was read, is below nothing
        for i in np.flatnonzero(confidence < (calibration.not_a_digit_below or 0)).tolist():
            status[i], error[i] = NOT_A_DIGIT, NOT_A_DIGIT_ERROR
        return Predictions.build(probabilities, confidence, status, error)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The network's raw output, (N, 10) float32, for (N, 28, 28) uint8 MNIST images."""
        return self._runtime.run(images)


def compute_views(
    batch: ImageBatch, compute_logits: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> Views:
    """Run a network on both views of the images that are `ok`, once where they are the same.

    Args:
        batch: N images.
        compute_logits: (M, 28, 28) uint8 -> (M, 10) float32.

    Returns:
        Of those that are `ok`, in order.
    """
    rows = batch.is_ok
    canonical = compute_logits(batch.images if rows.all() else batch.images[rows])
    raw = canonical
    differs = find_differing(batch) & rows
    if differs.any():
        raw = canonical.copy()
        raw[differs[rows]] = compute_logits(batch.raw[differs])
    return Views(canonical, raw, batch.trust[rows])


def find_differing(batch: ImageBatch) -> NDArray[np.bool_]:
    """Which images' raw view is not the canonical one: (N,) bool."""
    if batch.raw is batch.images:
        return np.zeros(len(batch.images), np.bool_)
    return np.asarray((batch.raw != batch.images).any((1, 2)))


def _read_sources(
    sources: Iterable[ImageSource],
) -> Iterator[bytes | NDArray[np.uint8] | ObjectError]:
    stores: dict[str, Store] = {}
    for i, source in enumerate(sources):
        if isinstance(source, bytes):
            yield source
        elif isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim != 2 or not source.size:
                raise TypeError(
                    f"Image {i} is a {source.dtype} array of shape {source.shape}: "
                    "pass grey pages as (H, W) uint8."
                )
            yield source
        elif isinstance(source, (str, PathLike)):
            folder, _, name = resolve_uri(fspath(source)).rpartition("/")
            store = stores.get(folder) or stores.setdefault(folder, open_store(folder or "/"))
            try:
                yield store.read(name)
            except ObjectError as error:
                yield error
        else:
            raise TypeError(f"Image {i} is a {type(source).__name__}: pass bytes, a path or array.")
