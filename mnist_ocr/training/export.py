"""A model as one file, for other programs."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mnist_ocr.digits.model import Model, load_model
from mnist_ocr.errors import UsageError
from mnist_ocr.storage import is_local, open_store, resolve_uri
from mnist_ocr.training.config import ExportConfig


@dataclass(frozen=True)
class Export:
    """The file that was written."""

    output_uri: str
    format: str
    architecture: str
    mean: float
    """A network of a `pt` file wants (pixel / 255 - mean) / std; `onnx` does that itself."""
    std: float
    size_bytes: int
    sha256: str


def export(config: ExportConfig) -> Export:
    """Write a model as a `state_dict` or as ONNX.

    Raises:
        UsageError: The model directory is not one, or the file cannot be written.
        StorageUnreachableError: The store does not answer.
    """
    model = load_model(config.model_uri)
    name = f"{PurePosixPath(resolve_uri(config.model_uri)).name}.{config.format}"
    output_uri = resolve_uri(config.output_uri or name)
    if is_local(output_uri) and Path(output_uri).is_dir():
        output_uri = f"{output_uri}/{name}"
    folder, _, file_name = output_uri.rpartition("/")
    if folder.endswith(":/"):
        raise UsageError(
            f"output_uri is {output_uri}, a bucket. Pass a file in it: {output_uri}/{name}."
        )
    content = model.onnx if config.format == "onnx" else _build_state_dict_file(model)
    open_store(folder or "/").write(file_name, content)
    return Export(
        output_uri=output_uri,
        format=config.format,
        architecture=model.info.architecture,
        mean=model.info.mean,
        std=model.info.std,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _build_state_dict_file(model: Model) -> bytes:
    """The weights as `torch.save` writes them: tensors only, so `weights_only=True` loads them."""
    import safetensors.torch
    import torch

    file = io.BytesIO()
    torch.save(safetensors.torch.load(model.weights), file)
    return file.getvalue()
