"""A trial that trains with several Ray Train workers, and is evaluated in a process of its own afterwards.

The trial's own process claims nothing: it starts the training, follows its checkpoints, and waits. So a trial never
holds anything that the workers of another one wait for.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import ray
import torch

from jepawm.config.places import home, is_uri
from jepawm.distributed.train import ray_train
from jepawm.runs.episodes import dataset_path
from jepawm.runs.placement.demand import Claim
from jepawm.runs.trial import TrialJob, evaluate_trained, record_at
from jepawm.training.checkpoint import checkpoint_step, list_checkpoints
from jepawm.training.loop import Metrics

# Seconds between two looks at the checkpoints of a training.
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Surroundings:
    """What a process of a sweep has in common with its driver.

    Attributes:
        home: `$JEPAWM_HOME`, where datasets are found.
        folder: The current folder, which paths in the settings are relative to.
        num_threads: Of each process.
    """

    home: str
    folder: str
    num_threads: int

    @classmethod
    def of_driver(cls, num_threads: int) -> "Surroundings":
        """Those of this process."""
        named = os.environ.get("JEPAWM_HOME", "")
        return cls(named if is_uri(named) else home(), os.getcwd(), num_threads)

    def enter(self) -> None:
        """Makes them those of this process, as far as its node has them."""
        os.environ["JEPAWM_HOME"] = self.home
        # Ray Tune reads it here: a process is used again only when the training that it was told to end has ended.
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        torch.set_num_threads(self.num_threads)


class WithWorkers:
    """See `jepawm.runs.trial.Elsewhere`.

    Args:
        worker: What a training worker claims.
        evaluation: What the process that evaluates claims.
        surroundings: Of that process.
    """

    def __init__(self, worker: Claim, evaluation: Claim, surroundings: Surroundings) -> None:
        self._worker, self._evaluation, self._surroundings = worker, evaluation, surroundings

    def train(self, job: TrialJob, at_checkpoint: Callable[[str, int, Metrics], None]) -> None:
        """Trains with Ray Train in a thread; this one reports, and may be ended while it does."""
        run_dir, errors = str(job.folder.path), list[BaseException]()

        def work() -> None:
            try:
                ray_train(job.config, dataset_path(job.config), run_dir, self._worker)
            except BaseException as error:  # noqa: BLE001 - it is raised again in the trial's thread
                errors.append(error)

        thread = threading.Thread(target=work, name="ray-train", daemon=True)
        thread.start()
        folder, seen = os.path.join(run_dir, "checkpoints"), set[int]()
        while True:
            running = thread.is_alive()
            for name in list_checkpoints(folder):
                train_step = checkpoint_step(name)
                if train_step is not None and train_step not in seen:
                    seen.add(train_step)
                    at_checkpoint(os.path.join(folder, name), train_step, record_at(run_dir, train_step))
            if not running:
                break
            thread.join(_LOOK_EVERY_S)
        if errors:
            raise errors[0]

    def evaluate(self, job: TrialJob) -> None:
        """Evaluates in a task that claims what a trial without workers does."""
        surroundings, gpus = self._surroundings, self._evaluation.gpus

        def work() -> None:
            surroundings.enter()
            evaluate_trained(job.on(gpus))

        # Not in the placement group of the trial's own process, which holds nothing.
        ray.get(ray.remote(**self._evaluation.options(), scheduling_strategy="DEFAULT")(work).remote())
