"""Evaluations while training goes on: of checkpoints, every `evaluation.every_num_train_steps`.

A thread of the driver watches the run's checkpoints, copies those that are wanted before training removes them, and
evaluates them one after the other. On Ray the training is in other processes, and the thread evaluates on the same
cluster. With `--local` this process trains, so another process evaluates: the two share no random numbers.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from jepawm.checkpoints.model_folder import copy_model
from jepawm.config import RunConfig, to_dict
from jepawm.config.yaml_io import from_dict
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import CheckpointError, JepawmError
from jepawm.evaluation.result import EvaluationResult
from jepawm.files import write_json
from jepawm.nn import weights
from jepawm.runs.evaluation import EVAL_FILE, EvaluationJob, evaluate_and_report, read_result
from jepawm.runs.runtime import LocalRuntime, Runtime
from jepawm.runs.tracking import summary_metrics
from jepawm.runs.usage import Share
from jepawm.tracking import EVALUATIONS_FILE, Record, append_metrics, read_metrics
from jepawm.training.checkpoint import checkpoint_name, checkpoint_step, list_checkpoints

Evaluate = Callable[[EvaluationJob], EvaluationResult]


class EvaluationsDuringTraining:
    """Evaluates checkpoints as they appear, while the context lasts.

    The last checkpoint is left out, for the run evaluates it itself. Leaving the context waits for the evaluations that
    have begun or wait, unless an error leaves it.

    Args:
        config: Of the run; `evaluation.every_num_train_steps` None: nothing is evaluated.
        run_dir: Holds `checkpoints`; gets `evaluations/step-NNNNNNNN` and `evaluations.jsonl`.
        evaluate: Evaluates one checkpoint.
        say: Told a line per evaluation.
        poll_s: Time between two looks at the checkpoints, seconds.
    """

    def __init__(
        self,
        config: RunConfig,
        run_dir: str,
        evaluate: Evaluate,
        say: Callable[[str], None],
        *,
        poll_s: float = 0.2,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self._evaluate = evaluate
        self._say = say
        self._poll_s = poll_s
        self._taken: set[int] = set()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="checkpoint-watcher", daemon=True)
        self._evaluator = ThreadPoolExecutor(1, thread_name_prefix="evaluation")

    def __enter__(self) -> "EvaluationsDuringTraining":
        if self.config.evaluation.every_num_train_steps is not None:
            self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._stop.set()
        if self.config.evaluation.every_num_train_steps is not None:
            self._watcher.join()
            if kind is None:
                self._tell_missed()
        self._evaluator.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def _watch(self) -> None:
        while True:
            stopping = self._stop.is_set()
            self._take_new_checkpoints()
            if stopping:
                return
            self._stop.wait(self._poll_s)

    def _take_new_checkpoints(self) -> None:
        every, last = self.config.evaluation.every_num_train_steps, self.config.train.num_train_steps
        assert every is not None, "otherwise nothing is watched"
        place = os.path.join(self.run_dir, "checkpoints")
        for name in list_checkpoints(place):
            train_step = checkpoint_step(name)
            if train_step is None or train_step % every or train_step >= last or train_step in self._taken:
                continue
            folder = os.path.join(self.run_dir, "evaluations", checkpoint_name(train_step))
            model = os.path.join(folder, "model")
            os.makedirs(folder, exist_ok=True)
            try:
                version = copy_model(os.path.join(place, name), model)
                weights.read_tensors(os.path.join(model, "model.safetensors"))
            except (CheckpointError, OSError):
                # It is being written, or was just removed: the next look tells.
                continue
            self._taken.add(train_step)
            known = {record["train_step"]: record["model_sha256"] for record in self._records()}
            # A run that goes on finds the evaluations of its first part; lost updates may have been made anew.
            if known.get(train_step) != version:
                self._evaluator.submit(self._evaluate_one, train_step, model, folder)

    def _tell_missed(self) -> None:
        """Names wanted train steps whose checkpoints were gone before they could be copied."""
        every, last = self.config.evaluation.every_num_train_steps, self.config.train.num_train_steps
        assert every is not None, "otherwise nothing is wanted"
        known = self._taken | {record["train_step"] for record in self._records()}
        missed = [str(train_step) for train_step in range(every, last, every) if train_step not in known]
        if missed:
            self._say(
                f"   train steps {', '.join(missed)} were not evaluated: their checkpoints were removed too early; "
                "raise train.num_checkpoints_kept"
            )

    def _records(self) -> list[Record]:
        return read_metrics(os.path.join(self.run_dir, EVALUATIONS_FILE))

    def _evaluate_one(self, train_step: int, model: str, folder: str) -> None:
        job = EvaluationJob(during_training(self.config), f"train step {train_step}", model, folder)
        try:
            result = self._evaluate(job)
        except (JepawmError, OSError) as error:
            self._say(f"   train step {train_step} was not evaluated: {error}")
            return
        finally:
            # The hash in eval.json says which weights they were; a copy for each evaluation would fill the disk.
            shutil.rmtree(model, ignore_errors=True)
        numbers = {f"during_training/{key}": value for key, value in summary_metrics(result).items()}
        record: Record = {"train_step": train_step, "model_sha256": result.model.sha256, **numbers}
        append_metrics(os.path.join(self.run_dir, EVALUATIONS_FILE), record)
        self._say(f"   train step {train_step}: {_in_words(result)}")


def during_training(config: RunConfig) -> RunConfig:
    """The evaluation of a checkpoint: the episodes of the run's own evaluation, under its first protocol alone."""
    evaluation = replace(
        config.evaluation,
        protocols=config.evaluation.protocols[:1],
        goal_offsets_env_steps=(),
        num_animations=0,
        num_diagnosed_failures=0,
        every_num_train_steps=None,
    )
    return replace(config, evaluation=evaluation, tracking=replace(config.tracking, mlflow=False))


def evaluator(dataset: EpisodeDataset, runtime: Runtime) -> Evaluate:
    """What evaluates checkpoints while a runtime trains: the same cluster, or another process beside `--local`."""
    if isinstance(runtime, LocalRuntime):
        # With one thread; a GPU is the one that this process counts already.
        share = Share("evaluating process", 1, 1.0)

        def evaluate_beside(job: EvaluationJob) -> EvaluationResult:
            with runtime.usage.holding(share):
                return _evaluate_in_process(job, str(dataset.path))

        return evaluate_beside
    return lambda job: evaluate_and_report(job, dataset, runtime, Console(quiet=True))


def _evaluate_in_process(job: EvaluationJob, dataset_path: str) -> EvaluationResult:
    """Evaluates in a process of its own, with one thread, beside the training."""
    request = os.path.join(job.folder, "job.json")
    told = {"config": to_dict(job.config), "recipe": job.recipe, "model_dir": job.model_dir, "folder": job.folder}
    write_json(request, {**told, "dataset": dataset_path})
    command = [sys.executable, "-m", "jepawm.runs.during_training", request]
    # The modules of this process, also where the package is not installed.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CheckpointError(f"the process that evaluates {job.model_dir} ended: {last}")
    return read_result(os.path.join(job.folder, EVAL_FILE))


def _in_words(result: EvaluationResult) -> str:
    version = f"weights {result.model.sha256[:12]}"
    if result.played is None:
        row = result.held_out.prediction[-1]
        return f"error {row.share_of_persistence:.3f} of persistence after {row.model_steps} model steps; {version}"
    report = result.played.protocols[result.played.headline]
    rate, random = report.planned.rate, report.random.rate
    low, high = rate.success_interval
    return (
        f"{result.played.headline} {rate.success_rate:.3f} [{low:.3f}, {high:.3f}], random plans "
        f"{random.success_rate:.3f}, {rate.num_episodes} episodes; {version}"
    )


def main(path: str) -> None:
    """Evaluates what a job file says; the body of the process beside a local training."""
    import torch

    torch.set_num_threads(1)
    with open(path, encoding="utf-8") as file:
        told: dict[str, Any] = json.load(file)
    config = from_dict(RunConfig, told["config"], path)
    job = EvaluationJob(config, told["recipe"], told["model_dir"], told["folder"])
    evaluate_and_report(job, EpisodeDataset(told["dataset"]), LocalRuntime(), Console(quiet=True))


if __name__ == "__main__":
    main(sys.argv[1])
