"""A training in this process: its checkpoints, its metrics, and its end at a signal."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from jepawm.config.training import TrainConfig
from jepawm.interrupts import Interrupted, noted_signals
from jepawm.tracking import METRICS_FILE, MetricsWriter
from jepawm.training.checkpoint import checkpoint_name, checkpoint_step, list_checkpoints, newest_checkpoint
from jepawm.training.checkpoint_writer import BestCheckpoint, CheckpointWriter, Writable
from jepawm.training.loop import Metrics
from jepawm.training.place import TrainingPlace
from jepawm.training.stopping import StopAgreement


@dataclass(frozen=True)
class Kept:
    """What a training keeps.

    Attributes:
        num_train_steps: Updates in all.
        num_checkpoints: Newest checkpoints on disk.
        judged: Names the metric by which the best one is kept beside them; None: none is.
    """

    num_train_steps: int
    num_checkpoints: int
    judged: TrainConfig | None = None

    def best(self, run_dir: str) -> BestCheckpoint | None:
        """Keeps the best checkpoint of a run; None where none is wanted."""
        return None if self.judged is None else BestCheckpoint.wanted(run_dir, self.judged)


def train_here(
    run_dir: str,
    kept: Kept,
    train: Callable[[TrainingPlace], object],
    *,
    spent: Callable[[], bool] = lambda: False,
    after_checkpoint: Callable[[str, int, Metrics], None] | None = None,
) -> str:
    """Trains in this process, from the newest checkpoint in `run_dir` if there is one.

    Args:
        run_dir: Gets `checkpoints` and the metrics.
        kept: How far, and what stays on disk.
        train: Trains; returns after the last update, or where `stop` ended it.
        spent: Whether training had better end at a checkpoint; asked often.
        after_checkpoint: Called between two updates with each checkpoint's folder, train step and metrics.

    Returns:
        The folder of the last checkpoint.

    Raises:
        Interrupted: A signal asked for the end, and a checkpoint was written.
    """
    folder = os.path.join(run_dir, "checkpoints")
    newest = newest_checkpoint(folder)
    best = kept.best(run_dir)
    writer = MetricsWriter(os.path.join(run_dir, METRICS_FILE), resume_step=checkpoint_step(newest))

    def write(copy: Writable, record: Metrics) -> None:
        place = os.path.join(folder, checkpoint_name(copy.train_step))
        copy.write(place)
        if best is not None:
            best.consider(place, copy.train_step, record)
        for old in list_checkpoints(folder)[: -kept.num_checkpoints]:
            shutil.rmtree(os.path.join(folder, old))

    def save(copy: Callable[[], Writable], record: Metrics) -> None:
        written = checkpoints.save(copy, record)
        if after_checkpoint is not None:
            written.result()
            train_step = record["train_step"]
            after_checkpoint(os.path.join(folder, checkpoint_name(train_step)), train_step, record)

    with noted_signals() as request, CheckpointWriter(write) as checkpoints:
        stop = StopAgreement(lambda: bool(request) or spent())
        train(TrainingPlace(newest, save, writer.write, checkpoints.check, stop))
    last = newest_checkpoint(folder)
    assert last is not None, "training always ends with a checkpoint"
    if request.signal_number is not None and (checkpoint_step(last) or 0) < kept.num_train_steps:
        raise Interrupted(request.signal_number)
    return last
