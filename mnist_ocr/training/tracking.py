"""Where a run can be watched: `metrics.jsonl` and TensorBoard events beside the model, MLflow.

The driver tracks; workers only report. A report is the whole history so far, so that one that
comes twice, or after a restart, changes nothing.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from mnist_ocr.errors import UsageError
from mnist_ocr.storage import Store
from mnist_ocr.training.metrics import METRICS, EpochMetrics, format_history

logger = logging.getLogger(__name__)

EVENTS = "tensorboard/events.out.tfevents.mnist-ocr"

SCALARS = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "learning_rate": "learning_rate",
    "images_per_s": "images_per_s",
}
"""TensorBoard's tag -> the field of `EpochMetrics`."""


class RunTracker:
    """Records the epochs of one run, until the `with` block ends.

    Args:
        store: The model directory.
        parameters: What the run was told; flat, for MLflow.
        mlflow_uri: Where to track with MLflow as well.

    Raises:
        UsageError: MLflow is asked for and not installed, or its server refuses.
    """

    def __init__(
        self, store: Store, parameters: Mapping[str, Any], mlflow_uri: str | None = None
    ) -> None:
        self._store = store
        self._num_logged = 0
        self._mlflow = None if mlflow_uri is None else _start_mlflow(mlflow_uri, parameters)
        self._folder = TemporaryDirectory()
        # Not SummaryWriter: it writes from a thread that its flush does not wait for.
        self._writer = EventsWriter(f"{self._folder.name}/events")

    def update(self, history: Sequence[EpochMetrics]) -> None:
        """Record the epochs that are new; files are replaced whole, in one write each."""
        new = history[self._num_logged :]
        self._num_logged = max(self._num_logged, len(history))  # epochs may be done again
        for metrics in new:
            values = asdict(metrics)
            for tag, name in SCALARS.items():
                summary = scalar(tag, values[name])
                event = Event(summary=summary, step=metrics.epoch, wall_time=time.time())
                self._writer.write_event(event)
        self._writer.flush()
        (events,) = Path(self._folder.name).iterdir()
        self._store.write(METRICS, format_history(history).encode())
        self._store.write(EVENTS, events.read_bytes())
        for metrics in new:
            self._tell_mlflow("log_metrics", asdict(metrics), step=metrics.epoch)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Record what the run came to."""
        numbers = {k: float(v) for k, v in results.items() if isinstance(v, (int, float))}
        self._tell_mlflow("log_metrics", numbers)
        self._tell_mlflow("set_tag", "model_uri", results["model_uri"])

    def _tell_mlflow(self, method: str, *arguments: Any, **options: Any) -> None:
        """A server that fails later on costs the tracking there, not the training."""
        if self._mlflow is None:
            return
        try:
            getattr(self._mlflow, method)(*arguments, **options)
        except Exception as error:
            logger.warning("MLflow fails, and is left out from here on: %s", error)
            self._mlflow = None

    def __enter__(self) -> "RunTracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the files; MLflow learns whether the run came to its end."""
        self._writer.close()
        self._folder.cleanup()
        self._tell_mlflow("end_run", "FINISHED" if error is None else "FAILED")


def _start_mlflow(uri: str, parameters: Mapping[str, Any]) -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise UsageError(
            f"mlflow_uri is {uri}, but MLflow is not installed. Run pip install 'mnist-ocr[mlflow]'"
            ", or leave mlflow_uri out."
        ) from error
    # MLflow's own seven retries of two minutes each would hold up the start
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("mnist-ocr")
        mlflow.start_run()
        mlflow.log_params(dict(parameters))
    except mlflow.exceptions.MlflowException as error:
        raise UsageError(f"MLflow at {uri} does not work: {error}. Check mlflow_uri.") from error
    return mlflow
