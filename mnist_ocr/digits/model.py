"""The model directory: what training writes, and all that labelling needs.

    models/cnn/
      model.safetensors   weights of the network
      model.onnx          the same network for CPU, normalisation and temperature inside
      model.json          architecture, preprocessing, normalisation, calibration, metrics, training
                          config, data, versions, sha256 of both files; written last

No pickle anywhere. Importing this module does not import torch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_ocr.digits.calibration import Calibration
from mnist_ocr.digits.canonical import PREPROCESSING_VERSION
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import Store, open_store

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, ONNX, INFO = "model.safetensors", "model.onnx", "model.json"

MAX_BYTES = 1024**3
"""Of a file: the largest of the networks here has a hundredth of it."""

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""The model directory that comes with the package."""

VERSIONED_PACKAGES = ("mnist-ocr", "numpy", "onnxruntime", "opencv-python-headless", "torch")
"""The packages on whose versions a prediction can depend."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The content of `model.json`."""

    architecture: str
    """Name of the network in `networks.ARCHITECTURES`."""
    mean: float
    """Mean of the training pixels, in 0-1: inputs are (pixel / 255 - mean) / std."""
    std: float
    """Standard deviation of the training pixels, in 0-1."""
    calibration: Calibration
    """From logits to probabilities and confidence."""
    preprocessing_version: int = PREPROCESSING_VERSION
    """Version of decoding and canonicalising that the training images went through."""
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    sha256: Mapping[str, str]
    """File name -> hex digest."""


@dataclass(frozen=True)
class Model:
    """A model directory in memory, checked against its sha256 sums."""

    info: ModelInfo
    sha256: str
    """Hex digest of `model.json`, which holds those of the other files: the model's identity."""
    weights: bytes
    """`model.safetensors`."""
    onnx: bytes
    """`model.onnx`."""


def package_versions(packages: Sequence[str] = VERSIONED_PACKAGES) -> dict[str, str]:
    """Versions of packages; by default of those that a prediction can depend on."""
    return {package: version(package) for package in packages}


def save_model(
    model_uri: str,
    network: "nn.Module",
    *,
    architecture: str,
    mean: float,
    std: float,
    calibration: Calibration,
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Model:
    """Write a model directory and return what was written.

    Args:
        model_uri: Folder, local or on any store; `model.json` commits it.
        network: (B, 1, 28, 28) float32 normalised inputs -> (B, 10) logits, of `architecture`.
        architecture: Name in `networks.ARCHITECTURES`.
        mean: Of the pixels, in 0-1.
        std: Of the pixels, in 0-1.
        calibration: From `training.calibrating.fit_calibration`.
        metrics: JSON-able; what was measured, on which split.
        training: JSON-able; the training config.
        data: JSON-able; the data set, its split and hash.

    Raises:
        UsageError: the folder cannot be written.
    """
    import safetensors.torch

    from mnist_ocr.digits.inference import DigitModel, export_onnx

    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    files = {
        WEIGHTS: safetensors.torch.save(state),
        ONNX: export_onnx(
            DigitModel(network, mean=mean, std=std, temperature=calibration.temperature)
        ),
    }
    info = ModelInfo(
        architecture=architecture,
        mean=mean,
        std=std,
        calibration=calibration,
        metrics=metrics,
        training=training,
        data=data,
        versions=package_versions(),
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    files[INFO] = json.dumps(asdict(info), indent=2).encode()
    store = open_store(model_uri)
    for name, content in files.items():
        store.write(name, content)
    return Model(info, hashlib.sha256(files[INFO]).hexdigest(), files[WEIGHTS], files[ONNX])


def load_model(model_uri: str | None = None) -> Model:
    """Read and check a model directory.

    Args:
        model_uri: Local or on any store; None for the model that comes with the package.

    Raises:
        UsageError: it is not a model directory, it is damaged, or this package's preprocessing is
            not the one that the model was trained with.
    """
    if model_uri is None and not (PRETRAINED / INFO).exists():
        raise UsageError(
            "No model: this copy of mnist-ocr comes without one. "
            "Pass --model-uri with a directory that `mnist-ocr train` has written."
        )
    store = open_store(model_uri or str(PRETRAINED))
    content = _read_file(store, INFO)
    try:
        fields = json.loads(content)
        fields["calibration"] = Calibration.from_json(fields["calibration"])
        info = ModelInfo(**fields)
        if not (isinstance(info.sha256, dict) and isinstance(info.versions, dict)):
            raise TypeError("sha256 and versions have to be objects")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(
            f"{store.uri_of(INFO)} is not a model description: {error}. Train the model again."
        ) from error
    if info.preprocessing_version != PREPROCESSING_VERSION:
        raise UsageError(
            f"The model {store.uri} wants preprocessing version {info.preprocessing_version}, this "
            f"mnist-ocr does version {PREPROCESSING_VERSION}. Train it again, or install "
            f"mnist-ocr {info.versions.get('mnist-ocr', 'of its time')}."
        )
    files = {name: _read_file(store, name) for name in (WEIGHTS, ONNX)}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != info.sha256.get(name):
            raise UsageError(
                f"{store.uri_of(name)} does not have the sha256 that {INFO} states: a damaged or "
                "mixed copy. Copy the model directory again."
            )
    return Model(info, hashlib.sha256(content).hexdigest(), files[WEIGHTS], files[ONNX])


def _read_file(store: Store, name: str) -> bytes:
    try:
        return store.read(name, max_bytes=MAX_BYTES)
    except ObjectError as error:
        raise UsageError(
            f"{store.uri} is not a model directory: {error} "
            "Pass one that `mnist-ocr train` has written."
        ) from error
