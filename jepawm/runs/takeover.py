"""Population-based training: a trial goes on with the checkpoint of another one, and with changed settings."""

import os
import shutil
from pathlib import Path

from jepawm.files import atomic_folder
from jepawm.training.checkpoint import checkpoint_name
from jepawm.tuning.trial import Takeover, TrialFolder


def take_over(folder: TrialFolder, takeover: Takeover, checkpoint: str) -> None:
    """Puts the checkpoint of another trial, and its changed settings, in the place of a trial's own.

    A kill on the way leaves the trial as it was, or as it is to be.

    Args:
        folder: The trial that goes on with them.
        takeover: Where they come from.
        checkpoint: The checkpoint's folder.
    """
    count = len(folder.takeovers) + 1
    with atomic_folder(_staged(folder, count)) as temporary:
        shutil.copytree(checkpoint, temporary, dirs_exist_ok=True)
    folder.take_over(takeover)
    finish_takeover(folder)


def finish_takeover(folder: TrialFolder) -> None:
    """Moves a checkpoint that was taken over to its place, where that has not happened yet."""
    takeovers = folder.takeovers
    staged = _staged(folder, len(takeovers))
    if takeovers and staged.is_dir():
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
        (folder.path / "checkpoints").mkdir(parents=True)
        os.replace(staged, folder.path / "checkpoints" / checkpoint_name(takeovers[-1].train_step))
    for leftover in folder.path.glob("taken-over-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _staged(folder: TrialFolder, count: int) -> Path:
    return folder.path / f"taken-over-{count}"
