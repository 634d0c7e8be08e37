"""A run's latest state: one object beside the model, replaced whole.

That is at the end of every epoch, and within one when a node of the run is to go.
Ray Train's own checkpoints are not used: they are folders plus a snapshot file that is written in
place, so that a crash can leave one that stops the next start, and pyarrow's file systems know
other settings for S3 than the rest of this package. This is one `Store.write`: readers see the old
state or the new one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import safetensors
import safetensors.torch
from torch import Tensor

from mnist_ocr.errors import ObjectError
from mnist_ocr.storage import Store
from mnist_ocr.training.epoch_sums import EpochTotals
from mnist_ocr.training.loop import TrainingLoop
from mnist_ocr.training.metrics import format_history, parse_history

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(
    store: Store, run_id: str, loop: TrainingLoop, progress: EpochTotals | None = None
) -> None:
    """Write the loop's state; within an epoch, with how far it has come.

    Raises:
        UsageError: The folder cannot be written, or the disk is full.
        StorageUnreachableError: The store does not answer, also on retries.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in loop.state_dict().items()}
    metadata = {
        "run_id": run_id,
        "history": format_history(loop.history),
        "progress": json.dumps(asdict(progress or EpochTotals())),
    }
    metadata["sha256"] = _hash(metadata, state)
    store.write(CHECKPOINT, safetensors.torch.save(state, metadata))


def read_checkpoint(store: Store) -> bytes | None:
    """Read what was last saved, by whichever run; None if there is nothing.

    Raises:
        ObjectError: It may not be read.
        StorageUnreachableError: The store does not answer, also on retries.
    """
    try:
        return store.read(CHECKPOINT)
    except ObjectError as error:
        if error.status == "missing":
            return None
        raise


def restore_checkpoint(content: bytes, run_id: str, loop: TrainingLoop) -> str:
    """Put a loop where the run of that id was last saved.

    A checkpoint that is damaged, or of another run, leaves the loop at its start; it is replaced
    by the next one.

    Returns:
        Where the run goes on, or why it does not, for a person.
    """
    try:
        metadata = _read_metadata(content)
        state = safetensors.torch.load(content)
        history = parse_history(metadata["history"])
        progress = EpochTotals(**json.loads(metadata["progress"]))
        if metadata.pop("sha256") != _hash(metadata, state):
            raise ValueError("its sha256 differs")
        if metadata["run_id"] != run_id:
            return f"starting anew: {CHECKPOINT} is of another run"
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        return f"starting anew: {CHECKPOINT} is damaged ({error})"
    loop.load_state_dict(state, history, progress)
    within = f" and {progress.num_steps} steps" if progress.num_steps else ""
    return f"continuing after epoch {len(loop.history)}{within}"


def _read_metadata(content: bytes) -> dict[str, str]:
    """The header's free part: 8 bytes of little-endian length, then JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8:end])["__metadata__"]
    return metadata


def _hash(metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()
