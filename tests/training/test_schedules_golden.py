"""Schedules of V-JEPA's pretraining against golden vectors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepawm.config.optim import OptimConfig, ScheduleConfig
from jepawm.config.pretraining_model import PretrainingLossConfig, TeacherConfig
from jepawm.training.schedules import learning_rate, weight_decay

Value = Callable[[int], float]


def rate(schedule: ScheduleConfig, peak: float, num_train_steps: int) -> Value:
    config = OptimConfig(learning_rate=peak, schedule=schedule)
    return lambda step: learning_rate(config, step, num_train_steps)


def warmup_cosine(case: dict[str, Any]) -> Value:
    peak = case["ref"]
    # `stretch` is what `T_max` is of the train steps; a run past the end of its schedule is one of `T_max` steps.
    stretched = case["T_max"] >= case["steps"]
    schedule = ScheduleConfig(
        name="vjepa_cosine",
        start_fraction=case["start"] / peak,
        warmup_steps=case["warmup"],
        final_fraction=case["final"] / peak,
        stretch=case["T_max"] / case["steps"] if stretched else 1.0,
    )
    return rate(schedule, peak, case["steps"] if stretched else case["T_max"])


def linear(case: dict[str, Any]) -> Value:
    schedule = ScheduleConfig(
        name="linear",
        final_fraction=case["final"] / case["ref"],
        fall_steps=case["T_max"],
        past_the_end="continue",
    )
    return rate(schedule, case["ref"], case["steps"])


def wsd(case: dict[str, Any]) -> Value:
    schedule = ScheduleConfig(
        name="wsd",
        start_fraction=case["start"] / case["ref"],
        warmup_steps=case["warmup"],
        decay_steps=case["anneal"],
        final_fraction=case["final"] / case["ref"],
    )
    return rate(schedule, case["ref"], case["T_max"])


def wd_cosine(case: dict[str, Any]) -> Value:
    config = OptimConfig(weight_decay=case["ref"], final_weight_decay=case["final"], weight_decay_steps=case["T_max"])
    return lambda step: weight_decay(config, step, case["steps"])


def momentum(case: dict[str, Any]) -> Value:
    first, last = case["ema"]
    steps = round(case["ipe_scale"] * case["epochs"] * case["ipe"])
    config = TeacherConfig(first, last, steps)
    return lambda step: config.momentum_at(step, case["steps"])


def weight_of_context(case: dict[str, Any]) -> Value:
    config = PretrainingLossConfig(
        context_weight=case["ceiling"], context_from_step=case["start"], context_full_step=case["end"]
    )
    return config.context_weight_at


KINDS: dict[str, Callable[[dict[str, Any]], Value]] = {
    "warmup_cosine": warmup_cosine,
    "linear": linear,
    "wsd": wsd,
    "wd_cosine": wd_cosine,
    "momentum": momentum,
    "lambda": weight_of_context,
}
CASES = (
    *(f"lr.{name}" for name in ("pretrain_vitg", "pretrain_vitl_yaml", "pretrain_vjepa1_vitl", "pretrain_vjepa21")),
    *(f"lr.{name}" for name in ("cooldown_vitg_384", "cooldown_vitg_256_yaml", "cooldown_vjepa21")),
    *("lr.past_the_end", "lr.cosine_past_the_end", "lr.wsd_droid"),
    *("wd.vjepa2", "wd.vjepa1", "wd.falling", "momentum.vjepa2", "momentum.vjepa1", "lambda.vjepa21"),
)


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "pretraining" / "schedules.json").read_text())


def test_every_golden_schedule_is_compared(cases):
    assert set(CASES) == set(cases)


@pytest.mark.parametrize("name", CASES)
def test_schedule(cases, name):
    case = cases[name]
    value = KINDS[case["kind"]](case)
    found = [value(iteration - 1) for iteration in case["at_iteration"]]
    assert found == pytest.approx(case["value"], rel=1e-9, abs=1e-15)


def test_a_fall_is_held_at_its_end_unless_asked():
    held = rate(ScheduleConfig(name="linear", final_fraction=0.1, fall_steps=10), 1.0, 20)
    assert [held(9), held(19)] == pytest.approx([0.1, 0.1])
