"""Which checkpoints are evaluated while training goes on, and what is told when one cannot be."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from wall_game import wall_spec

from jepawm.checkpoints.model_folder import build_world_model, save_world_model, weights_sha256
from jepawm.config import EvaluationConfig, RunConfig, TrainConfig, to_dict
from jepawm.errors import DataError
from jepawm.evaluation.result import EvaluationResult, HeldOut, ModelFacts, PredictionRow, Provenance
from jepawm.runs.during_training import EvaluationsDuringTraining
from jepawm.runs.evaluation import EvaluationJob
from jepawm.tracking import read_metrics

CONFIG = RunConfig(
    train=TrainConfig(num_train_steps=40, checkpoint_every=10), evaluation=EvaluationConfig(every_num_train_steps=20)
)


def write_checkpoint(run_dir: Path, train_step: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    spec = wall_spec()
    save_world_model(run_dir / "checkpoints" / f"step-{train_step:08d}", build_world_model(spec), spec)


class Judge:
    """Finds what its folder says; remembers what it was asked."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def __call__(self, job: EvaluationJob) -> EvaluationResult:
        self.jobs.append(os.path.basename(job.folder))
        return EvaluationResult(
            seed=99,
            model=ModelFacts(job.model_dir, weights_sha256(job.model_dir), 1),
            config=to_dict(job.config),
            provenance=Provenance("now", None, {}, {}),
            held_out=HeldOut((PredictionRow(1, 1.0, 4.0, 2.0, 3.0),)),
        )


def evaluated(run_dir: Path, judge: object, *steps: int, seed: int = 0) -> list[str]:
    """Evaluates the checkpoints of some train steps that are written meanwhile; returns what was said."""
    said: list[str] = []
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    with EvaluationsDuringTraining(CONFIG, str(run_dir), judge, said.append):  # type: ignore[arg-type]
        for train_step in steps:
            write_checkpoint(run_dir, train_step, seed)
    return said


def test_wanted_checkpoints_are_evaluated_once_for_each_version_of_their_weights(tmp_path: Path) -> None:
    judge = Judge()
    said = evaluated(tmp_path, judge, 10, 20, 30, 40)
    # 10 and 30 are not wanted, and the run evaluates its last checkpoint itself.
    assert judge.jobs == ["step-00000020"]
    (record,) = read_metrics(str(tmp_path / "evaluations.jsonl"))
    version = weights_sha256(str(tmp_path / "checkpoints" / "step-00000020"))
    assert (record["train_step"], record["model_sha256"]) == (20, version)
    assert record["during_training/eval/prediction/1"] == 0.25
    assert said == [f"   train step 20: error 0.250 of persistence after 1 model steps; weights {version[:12]}"]
    assert not (tmp_path / "evaluations" / "step-00000020" / "model").exists()
    # A run that goes on finds what its first part found, and updates made anew are other weights.
    assert evaluated(tmp_path, judge, 20, 40) == []
    evaluated(tmp_path, judge, 20, seed=1)
    assert judge.jobs == ["step-00000020"] * 2


def test_an_evaluation_that_fails_is_told_and_training_goes_on(tmp_path: Path) -> None:
    def fail(_job: EvaluationJob) -> EvaluationResult:
        raise DataError("too few tasks")

    assert evaluated(tmp_path, fail, 20) == ["   train step 20 was not evaluated: too few tasks"]
    assert read_metrics(str(tmp_path / "evaluations.jsonl")) == []


def test_a_checkpoint_that_was_gone_too_early_is_named(tmp_path: Path) -> None:
    (said,) = evaluated(tmp_path, Judge(), 40)
    assert "train steps 20 were not evaluated: their checkpoints were removed too early" in said


def test_an_error_in_training_ends_the_evaluations(tmp_path: Path) -> None:
    judge = Judge()
    with pytest.raises(KeyError), EvaluationsDuringTraining(CONFIG, str(tmp_path), judge, print):
        raise KeyError
    assert judge.jobs == []
