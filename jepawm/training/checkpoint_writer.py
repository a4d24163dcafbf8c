"""Writes checkpoints in a thread while training goes on, and keeps the best one beside the newest."""

import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from jepawm.config.training import TrainConfig
from jepawm.errors import CheckpointError, TrainingError
from jepawm.files import atomic_folder
from jepawm.training.checkpoint import cannot_write
from jepawm.training.loop import Metrics

BEST = "best"
_BEST_FILE = "best.json"


class Writable(Protocol):
    """A copy of all that a checkpoint holds.

    Attributes:
        train_step: Updates made.
    """

    @property
    def train_step(self) -> int: ...

    def write(self, folder: str) -> None:
        """Writes a checkpoint folder, which appears under its name only when it is whole.

        Raises:
            CheckpointError: The disk is full or takes no files.
        """
        ...


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread. The state is copied first, so training goes on meanwhile.

    A context: at its end, the last checkpoint is written. What a write raised is raised by the next call.

    Args:
        write: Called in the thread with the copy and the metrics of its train step.
    """

    def __init__(self, write: Callable[[Writable, Metrics], None]) -> None:
        self._write = write
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None

    def save(self, copy: Callable[[], Writable], record: Metrics) -> "Future[None]":
        """Copies the state and begins to write it; waits first until the checkpoint before is written.

        Args:
            copy: Makes the copy.
            record: Metrics of its train step.

        Returns:
            Resolves when the checkpoint is whole.

        Raises:
            CheckpointError: The checkpoint before could not be written.
        """
        self._finish()
        self._written = self._pool.submit(self._write, copy(), dict(record))
        return self._written

    def check(self) -> None:
        """Raises what a checkpoint's writing met, if it has ended; does not wait."""
        if self._written is not None and self._written.done():
            self._finish()

    def _finish(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # An error of the training goes first; its checkpoint is written all the same.
        self._pool.shutdown(wait=True)
        if error is None:
            self._finish()


class BestCheckpoint:
    """A copy of the checkpoint with the best value of a metric, in `FOLDER/best`.

    Files are shared with the checkpoint by hard links where the disk knows them, and copied elsewhere. `best.json` says
    which train step and value it is.

    Args:
        run_dir: Where `best` lies.
        metric: Name of the metric, as in `metrics.jsonl`.
        train: Whether low or high values are good, and when checkpoints are due.
    """

    def __init__(self, run_dir: str, metric: str, train: TrainConfig) -> None:
        self._folder = os.path.join(run_dir, BEST)
        self._metric, self._mode, self._train = metric, train.best_mode, train

    @classmethod
    def wanted(cls, run_dir: str, train: TrainConfig) -> "BestCheckpoint | None":
        """What a training asks for; None where `train.best_metric` names no metric."""
        return None if train.best_metric is None else cls(run_dir, train.best_metric, train)

    def consider(self, checkpoint: str, train_step: int, record: Metrics) -> None:
        """Copies a checkpoint that is better than the best one so far.

        A checkpoint that an interruption asked for may lack the metric, and is passed over then.

        Args:
            checkpoint: Its folder.
            train_step: Updates made.
            record: Metrics of that train step.

        Raises:
            TrainingError: The metric is not among those of the train step.
            CheckpointError: The disk is full or takes no files.
        """
        if self._metric not in record:
            if train_step % self._train.checkpoint_every == 0 or train_step == self._train.num_train_steps:
                known = ", ".join(sorted(name for name in record if "/" in name))
                raise TrainingError(
                    f"train.best_metric {self._metric!r} is not among the metrics of train step {train_step}: {known}"
                )
            return
        value = float(record[self._metric])
        before = self._value()
        better = before is None or (value < before if self._mode == "min" else value > before)
        if not math.isfinite(value) or not better:
            return
        told = {"metric": self._metric, "mode": self._mode, "value": value, "train_step": train_step}
        try:
            with atomic_folder(self._folder) as temporary:
                for path in Path(checkpoint).iterdir():
                    _link_or_copy(path, temporary / path.name)
                (temporary / _BEST_FILE).write_text(json.dumps(told, indent=1))
        except OSError as error:
            raise CheckpointError(cannot_write(self._folder, error)) from error

    def _value(self) -> float | None:
        """Value of the best checkpoint so far; None where there is none by this metric."""
        told = best_of(os.path.dirname(self._folder))
        if told is None or (told["metric"], told["mode"]) != (self._metric, self._mode):
            return None
        return float(told["value"])


def best_of(run_dir: str) -> dict[str, Any] | None:
    """What `best.json` of a run says: `metric`, `mode`, `value`, `train_step`; None where no best one is kept.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = os.path.join(run_dir, BEST, _BEST_FILE)
    if not os.path.isfile(path):
        return None
    try:
        told = json.loads(Path(path).read_text())
        return {**told, "value": float(told["value"]), "train_step": int(told["train_step"])}
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}); remove the folder {BEST} to keep a new best one"
        ) from error


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or one without hard links.
        shutil.copyfile(source, target)
