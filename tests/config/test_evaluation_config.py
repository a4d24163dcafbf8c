"""The section `evaluation`: protocols that fit a planner, goal distances, and evaluations as they were published."""

from typing import Any

import pytest

from jepawm.config import EvaluationConfig, PlannerConfig, ProtocolConfig, RunConfig, to_dict
from jepawm.config.published import PUBLISHED_EVALUATIONS, published_evaluation, published_layer
from jepawm.config.yaml_io import resolve
from jepawm.errors import ConfigError

SHRINKING = ProtocolConfig(replan_every=4, max_chunks=12, success_at="any_env_step", horizon="shrinking")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RunConfig(evaluation=EvaluationConfig(protocols=("per_chunk",), per_chunk=SHRINKING)),
            r"per_chunk.horizon is 'shrinking': planner.horizon \(6\) must be a multiple of .*replan_every \(4\)",
        ),
        (
            lambda: RunConfig(planner=PlannerConfig(horizon=2), evaluation=EvaluationConfig(protocols=("mpc",))),
            r"evaluation.mpc.replan_every \(3\) is longer than a plan: planner.horizon is 2",
        ),
        (
            lambda: EvaluationConfig(goal_source="held_out", goal_offsets_env_steps=(50, 25)),
            r"goal_offsets_env_steps must be positive and ascending, found 50, 25",
        ),
        (lambda: EvaluationConfig(goal_source="expert", goal_offsets_env_steps=(0, 5)), r"positive and ascending"),
        (
            lambda: EvaluationConfig(goal_offsets_env_steps=(25,)),
            r"goal_source must be one of held_out, held_out_replay, expert, random_actions, found 'sampler'",
        ),
        (
            lambda: EvaluationConfig(goal_source="held_out", goal_offsets_env_steps=(25,), episodes="set.json"),
            r"goal_offsets_env_steps draws goals at each distance, evaluation.episodes fixes them",
        ),
        (
            lambda: RunConfig(evaluation=EvaluationConfig(goal_source="held_out", goal_offsets_env_steps=(25, 28))),
            r"goal_offsets_env_steps must be multiples of data.frameskip \(5\), found 28",
        ),
        (lambda: EvaluationConfig(num_diagnosed_failures=-1), r"num_diagnosed_failures must not be negative"),
        (lambda: EvaluationConfig(num_diagnosis_candidates=0), r"num_diagnosis_candidates must be above 0"),
        (lambda: published_evaluation("dino_wm_push"), r"no published evaluation 'dino_wm_push' .*'dino_wm_pusht'"),
    ],
)
def test_what_cannot_be_played_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_recordings_are_needed_where_goals_come_from_them() -> None:
    needed = {"sampler": False, "expert": False, "random_actions": False}
    needed |= {"held_out": True, "held_out_replay": True, "other_episode": True}
    for source, needs in needed.items():
        assert EvaluationConfig(goal_source=source).takes_recordings is needs  # type: ignore[arg-type]
        assert not EvaluationConfig(goal_source=source, episodes="set.json").takes_recordings  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PUBLISHED_EVALUATIONS)
def test_a_published_evaluation_differs_in_nothing_but_what_is_asked(name: str) -> None:
    published = PUBLISHED_EVALUATIONS[name]
    its_own = ("model", {"env": {"id": published.env_id}, "data": {"frameskip": published.frameskip}})
    config, origins = resolve(RunConfig, [its_own, published_layer(name)])
    assert config.evaluation.published == name
    assert published.differences(to_dict(config)) == []
    assert origins["planner.num_samples"] == f"published {name}"
    other = {"planner": {"num_samples": 64}, "env": {"id": "envs:envs/Rope-v1"}}
    changed, _ = resolve(RunConfig, [its_own, published_layer(name), ("command line", other)])
    assert published.differences(to_dict(changed)) == [
        "planner.num_samples 64 (published: 300)",
        f"env.id 'envs:envs/Rope-v1' (published: '{published.env_id}')",
    ]


def test_published_counts_are_those_of_the_papers() -> None:
    counts = {}
    for name, published in PUBLISHED_EVALUATIONS.items():
        config, _ = resolve(RunConfig, [published_layer(name)])
        planner: Any = config.planner
        rules = getattr(config.evaluation, config.evaluation.protocols[0])
        budget = rules.max_chunks * published.frameskip
        counts[name] = (config.evaluation.num_episodes, planner.num_elites, planner.num_iterations, budget)
    assert counts == {
        "dino_wm_pusht": (50, 30, 30, 250),
        "dino_wm_pointmaze": (50, 30, 10, 250),
        "dino_wm_wall": (50, 30, 10, 250),
        "jepa_wm_pusht": (96, 10, 30, 30),
        "jepa_wm_pointmaze": (96, 10, 30, 30),
        "jepa_wm_wall": (96, 10, 30, 30),
        "jepa_wm_metaworld": (96, 10, 15, 100),
        "lewm_pusht": (50, 30, 30, 50),
    }
