"""Checkpoints are written beside training: they hold the state of their step, and what goes wrong is heard."""

import dataclasses
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_checkpoint import CPU, PLAN, SPEC, trained_state

from jepawm.checkpoints.model_folder import load_world_model
from jepawm.config import DataConfig, EnvConfig, LossConfig, RunConfig, TrainConfig
from jepawm.data import EpisodeDataset
from jepawm.errors import CheckpointError, ConfigError, TrainingError
from jepawm.runs.runtime import LocalRuntime
from jepawm.tracking import read_metrics
from jepawm.training.checkpoint import Snapshot, fresh_state, list_checkpoints, restore_training
from jepawm.training.checkpoint_writer import BestCheckpoint, CheckpointWriter, Writable, best_of


def change_(state: Any) -> None:
    with torch.no_grad():
        for parameter in state.objective.parameters():
            parameter.add_(1.0)
        for moments in state.optimizer.state.values():
            moments["exp_avg"].add_(1.0)
    state.train_step += 1


def test_a_checkpoint_holds_the_state_of_its_step_while_training_goes_on(tmp_path: Path) -> None:
    state, go_on = trained_state(), threading.Event()

    def write(snapshot: Writable, record: dict[str, Any]) -> None:
        assert go_on.wait(60)
        snapshot.write(str(tmp_path / f"step-{record['train_step']}"))

    with CheckpointWriter(write) as writer:
        written = writer.save(lambda: Snapshot.of(state, SPEC), {"train_step": 11})
        change_(state)
        assert not written.done()
        writer.check()
        go_on.set()
    restored = fresh_state(PLAN, SPEC, CPU)
    restore_training(str(tmp_path / "step-11"), restored)
    before = trained_state()
    assert restored.train_step == 11
    for name, value in before.objective.state_dict().items():
        assert torch.equal(value, restored.objective.state_dict()[name]), name
    for key, moments in before.optimizer.state_dict()["state"].items():
        assert torch.equal(moments["exp_avg"], restored.optimizer.state_dict()["state"][key]["exp_avg"])


def test_a_second_checkpoint_waits_for_the_first(tmp_path: Path) -> None:
    state, go_on, order = trained_state(), threading.Event(), []

    def write(_: Writable, record: dict[str, Any]) -> None:
        assert go_on.wait(60)
        order.append(record["train_step"])

    with CheckpointWriter(write) as writer, ThreadPoolExecutor(1) as training:
        writer.save(lambda: Snapshot.of(state, SPEC), {"train_step": 1})
        second = training.submit(writer.save, lambda: Snapshot.of(state, SPEC), {"train_step": 2})
        assert order == []
        assert not second.done()
        go_on.set()
        second.result()
        assert order[0] == 1
    assert order == [1, 2]


def test_an_error_of_the_writing_is_raised_by_the_next_call() -> None:
    def write(_: Writable, record: dict[str, Any]) -> None:
        raise CheckpointError("the disk is full")

    with pytest.raises(CheckpointError, match="the disk is full"), CheckpointWriter(write) as writer:
        writer.save(lambda: Snapshot.of(trained_state(), SPEC), {})
    writer = CheckpointWriter(write)
    assert writer.save(lambda: Snapshot.of(trained_state(), SPEC), {}).exception() is not None
    with pytest.raises(CheckpointError, match="the disk is full"):
        writer.check()
    # It is told once.
    writer.check()
    # An error of the training goes before that of its last checkpoint.
    with pytest.raises(TrainingError, match="not finite"):
        _train_until_the_loss_is_not_finite(CheckpointWriter(write))


def _train_until_the_loss_is_not_finite(writer: CheckpointWriter) -> None:
    with writer:
        writer.save(lambda: Snapshot.of(trained_state(), SPEC), {})
        raise TrainingError("not finite")


def test_the_best_checkpoint_stays_when_it_is_no_longer_among_the_newest(tmp_path: Path) -> None:
    train = TrainConfig(best_metric="validation/error_1", checkpoint_every=10, diagnostics_every=10, num_train_steps=40)
    best = BestCheckpoint.wanted(str(tmp_path), train)
    assert best is not None
    for step, value in ((10, 0.5), (20, float("nan")), (30, 0.2), (40, 0.3)):
        folder = tmp_path / f"step-{step}"
        folder.mkdir()
        (folder / "weights").write_text(str(step))
        best.consider(str(folder), step, {"train_step": step, "validation/error_1": value})
    expected = {"metric": "validation/error_1", "mode": "min", "value": 0.2, "train_step": 30}
    assert best_of(str(tmp_path)) == expected
    assert os.path.samefile(tmp_path / "step-30" / "weights", tmp_path / "best" / "weights")
    # A run that goes on compares with the best one so far; another metric begins anew.
    again = BestCheckpoint(str(tmp_path), "validation/error_1", train)
    again.consider(str(tmp_path / "step-40"), 40, {"validation/error_1": 0.21})
    assert best_of(str(tmp_path)) == expected
    highest = BestCheckpoint(str(tmp_path), "train/loss", dataclasses.replace(train, best_mode="max"))
    for value in (1.0, 3.0, 2.0):
        highest.consider(str(tmp_path / "step-10"), 10, {"train/loss": value})
    assert best_of(str(tmp_path)) == {"metric": "train/loss", "mode": "max", "value": 3.0, "train_step": 10}
    with pytest.raises(TrainingError, match=r"'train/loss' is not among the metrics of train step 20: a/b"):
        highest.consider(str(tmp_path / "step-20"), 20, {"a/b": 1.0, "train_step": 20})
    # An interruption asks for a checkpoint at any step.
    highest.consider(str(tmp_path / "step-20"), 23, {"train_step": 23})
    (tmp_path / "best" / "best.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        best_of(str(tmp_path))


def test_a_run_keeps_its_newest_checkpoints_and_the_best_one(wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    train = TrainConfig(
        num_train_steps=8,
        batch_size=8,
        precision="float32",
        checkpoint_every=2,
        diagnostics_every=2,
        diagnostics_windows=32,
        prediction_windows=16,
        num_checkpoints_kept=2,
        best_metric="validation/error_2",
        log_every=100,
    )
    config = RunConfig(
        device="cpu",
        env=EnvConfig(image_size=wall_dataset.spec.pixels.height),
        data=DataConfig(held_out_fraction=0.2, loader="cache"),
        loss=LossConfig(),
        train=train,
    )
    LocalRuntime().train(config, str(wall_dataset.path), str(tmp_path))
    assert list_checkpoints(str(tmp_path / "checkpoints")) == ["step-00000006", "step-00000008"]
    values = {
        record["train_step"]: record["validation/error_2"] for record in read_metrics(str(tmp_path / "metrics.jsonl"))
    }
    assert sorted(values) == [2, 4, 6, 8]
    told = json.loads((tmp_path / "best" / "best.json").read_text())
    assert (told["train_step"], told["value"]) == min(values.items(), key=lambda item: item[1])
    model, _ = load_world_model(str(tmp_path / "best"))
    weights = load_file(tmp_path / "best" / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"best_metric": "validation/error_1", "checkpoint_every": 500, "diagnostics_every": 300},
            "must be a multiple",
        ),
        ({"freeze": ("encoder.*",)}, r"train\.freeze \['encoder\.\*'\] needs a trained model in train\.init_from"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)
