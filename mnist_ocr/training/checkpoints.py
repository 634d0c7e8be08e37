"""A run's latest state: one object beside the model, replaced whole at the end of every epoch.

Ray Train's own checkpoints are not used: they are folders plus a snapshot file that is written in
place, so that a crash can leave one that stops the next start, and pyarrow's file systems know
other settings for S3 than the rest of this package. This is one `Store.write`: readers see the old
state or the new one.
"""

import hashlib
import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import Tensor

from mnist_ocr.errors import ObjectError
from mnist_ocr.storage import Store
from mnist_ocr.training.loop import TrainingLoop
from mnist_ocr.training.metrics import format_history, parse_history

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(store: Store, run_id: str, loop: TrainingLoop) -> None:
    """Write the loop's state.

    Raises:
        UsageError: The folder cannot be written, or the disk is full.
        StorageUnreachableError: The store does not answer, also on retries.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in loop.state_dict().items()}
    metadata = {
        "run_id": run_id,
        "history": format_history(loop.history),
        "sha256": _hash_state(state),
    }
    store.write(CHECKPOINT, safetensors.torch.save(state, metadata))


def restore_checkpoint(store: Store, run_id: str, loop: TrainingLoop) -> str | None:
    """Put a loop where the run of that id was last saved; leave it at its start if there is none.

    Returns:
        Where the run goes on, or why not although there is a checkpoint, for a person; None if
        there is none. One that is damaged, or of another run, is replaced after the first epoch.

    Raises:
        StorageUnreachableError: The store does not answer, also on retries.
    """
    try:
        content = store.read(CHECKPOINT)
    except ObjectError as error:
        if error.status == "missing":
            return None
        raise
    address = store.uri_of(CHECKPOINT)
    try:
        metadata = _read_metadata(content)
        state = safetensors.torch.load(content)
        if metadata["sha256"] != _hash_state(state):
            raise ValueError("its sha256 differs")
        if metadata["run_id"] != run_id:
            return f"starting anew: {address} is of another run"
        loop.load_state_dict(state, parse_history(metadata["history"]))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        return f"starting anew: {address} is damaged ({error})"
    return f"continuing after epoch {len(loop.history)}"


def _read_metadata(content: bytes) -> dict[str, str]:
    """The header's free part: 8 bytes of little-endian length, then JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8:end])["__metadata__"]
    return metadata


def _hash_state(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()
