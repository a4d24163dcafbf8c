"""A head whose training is not done: a folder beside the finished ones, found again by the same command.

```
MODEL/heads/NAME.training/
  job.json        what is trained, on which model and episodes; another job of that name begins anew
  metrics.jsonl   metrics so far, which a tracker reads along
  state.pt        weights, optimizer and train step
```
"""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from jepawm.checkpoints.model_folder import HEADS
from jepawm.config.head import HeadJob
from jepawm.config.yaml_io import to_dict
from jepawm.errors import CheckpointError, first_line
from jepawm.files import atomic_file, write_json
from jepawm.tracking import METRICS_FILE, MetricsWriter, Record, read_metrics
from jepawm.training.heads import HeadProgress

_JOB_FILE, _STATE_FILE = "job.json", "state.pt"
_DAMAGE = (pickle.UnpicklingError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError)


class UnfinishedHead:
    """The folder of a head that is being trained.

    Args:
        model_dir: The model folder.
        job: What is trained.
        model_sha256: Of the model's weights.
        dataset_fingerprint: Of the episodes.

    Attributes:
        folder: Where it is; its metrics and the tracker's files lie there.
        progress: What an interrupted training of the same job left; None: there is none.

    Raises:
        CheckpointError: The state of the same job is damaged.
    """

    def __init__(self, model_dir: str, job: HeadJob, model_sha256: str, dataset_fingerprint: str) -> None:
        self.folder = os.path.join(model_dir, HEADS, f"{job.folder_name}.training")
        told = {
            # Where it computes, how often it is written and who reads along do not change what is trained.
            "job": _shaping(job),
            "model_sha256": model_sha256,
            "dataset_fingerprint": dataset_fingerprint,
        }
        self.progress = self._read() if self._job() == json.loads(json.dumps(told)) else None
        if self.progress is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.makedirs(self.folder)
            write_json(os.path.join(self.folder, _JOB_FILE), told)
        self._metrics = MetricsWriter(
            os.path.join(self.folder, METRICS_FILE), resume_step=self.progress.train_step if self.progress else None
        )

    @property
    def records(self) -> list[Record]:
        """Metrics so far."""
        return read_metrics(self._metrics.path)

    def write(self, record: Record) -> None:
        """Appends a record of metrics."""
        self._metrics.write(record)

    def save(self, progress: HeadProgress) -> None:
        """Keeps how far the training came.

        Raises:
            CheckpointError: The disk is full or takes no files; what was kept before stays.
        """
        path = os.path.join(self.folder, _STATE_FILE)
        try:
            with atomic_file(path) as temporary:
                torch.save(vars(progress), temporary)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} could not be written ({first_line(error)}); free some space, then the same command goes on "
                "from the state before"
            ) from error

    def remove(self) -> None:
        """Removes the folder; the head is whole elsewhere."""
        shutil.rmtree(self.folder)

    def _job(self) -> Any:
        try:
            return json.loads(Path(self.folder, _JOB_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # No such folder, or one that a kill left without its job.
            return None

    def _read(self) -> HeadProgress | None:
        path = os.path.join(self.folder, _STATE_FILE)
        if not os.path.isfile(path):
            return None
        try:
            return HeadProgress(**torch.load(path, map_location="cpu", weights_only=True))
        except _DAMAGE as error:
            raise CheckpointError(
                f"{path} is damaged ({first_line(error)}); remove {self.folder} to train the head from its start"
            ) from error


def _shaping(job: HeadJob) -> dict[str, Any]:
    told = to_dict(job)
    for name in ("device", "tracking", "model"):
        del told[name]
    for name in ("log_every", "checkpoint_every"):
        del told["train"][name]
    return told
