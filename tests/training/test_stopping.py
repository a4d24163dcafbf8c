"""Training that is asked to end: a checkpoint at the next step boundary, the same on every worker, and nothing lost."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import few_steps
from safetensors.torch import load_file
from two_workers import on_two_workers

from jepawm.config import DataConfig, RunConfig
from jepawm.data import EpisodeDataset
from jepawm.interrupts import Interrupted
from jepawm.runs import runtime, training_here
from jepawm.tracking import MetricsWriter
from jepawm.training import stopping
from jepawm.training.checkpoint import list_checkpoints
from jepawm.training.stopping import COMPARE_EVERY, StopAgreement

CONFIG = RunConfig(
    device="cpu",
    data=DataConfig(held_out_fraction=0.1, loader="cache"),
    train=few_steps(8, batch_size=16),
)


class _SignalAtStep5(MetricsWriter):
    """Sends SIGTERM to this process while the fifth record is written."""

    def write(self, record: dict[str, Any]) -> None:
        super().write(record)
        if record["train_step"] == 5:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_ends_a_local_training_at_a_checkpoint_that_goes_on_to_the_same_bits(
    wall_dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, dataset = runtime.LocalRuntime(), str(wall_dataset.path)
    expected = local.train(CONFIG, dataset, str(tmp_path / "undisturbed"))
    monkeypatch.setattr(training_here, "MetricsWriter", _SignalAtStep5)
    with pytest.raises(Interrupted) as stop:
        local.train(CONFIG, dataset, str(tmp_path / "run"))
    assert stop.value.signal_number == signal.SIGTERM
    # The signal came after the question of step 5, so step 6 is the next boundary.
    assert list_checkpoints(str(tmp_path / "run" / "checkpoints")) == ["step-00000006"]
    monkeypatch.undo()
    continued = local.train(CONFIG, dataset, str(tmp_path / "run"))
    weights, others = load_file(f"{continued}/model.safetensors"), load_file(f"{expected}/model.safetensors")
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_signal_during_the_last_step_is_no_interrupt(
    wall_dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, num_train_steps=5))
    monkeypatch.setattr(training_here, "MetricsWriter", _SignalAtStep5)
    checkpoint = runtime.LocalRuntime().train(config, str(wall_dataset.path), str(tmp_path / "run"))
    assert checkpoint.endswith("step-00000005")


def _steps_until_both_stop(rank: int) -> int:
    """Only the second worker is asked to end, while it makes its second step."""
    step, agreement = 0, StopAgreement(lambda: rank == 1 and step >= 2)
    while True:
        step += 1
        if agreement(step):
            return step


def _questions_until_both_stop(rank: int) -> tuple[int, list[int]]:
    """Only the first worker finds that a question is due; the third answer ends both."""
    stopping.ASK_EVERY_S = 0.0 if rank == 0 else float("inf")
    asked: list[int] = []
    step = 0

    def ask() -> bool:
        # A collective call: it returns only if both workers ask.
        together = torch.ones(1)
        torch.distributed.all_reduce(together)
        asked.append(int(together))
        return len(asked) == 3

    agreement = StopAgreement(lambda: False, ask_together=ask)
    while True:
        step += 1
        if agreement(step):
            return step, asked


def _both(rank: int) -> tuple[int, tuple[int, list[int]]]:
    return _steps_until_both_stop(rank), _questions_until_both_stop(rank)


def test_two_workers_end_at_the_same_step_whichever_is_asked(tmp_path: Path) -> None:
    stopped = COMPARE_EVERY
    asked = (3 * COMPARE_EVERY, [2, 2, 2])
    assert on_two_workers(_both, tmp_path) == [(stopped, asked)] * 2


def test_one_worker_ends_at_once_and_asks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [StopAgreement(lambda: True)(step) for step in (1, 2)] == [True, True]
    now, asked = [0.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    agreement = StopAgreement(lambda: False, ask_together=lambda: bool(asked.append(now[0])))
    for second in range(12):
        now[0] = float(second)
        assert not agreement(second + 1)
    assert asked == [stopping.ASK_EVERY_S, 2 * stopping.ASK_EVERY_S]
