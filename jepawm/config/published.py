"""Evaluations as they were published: which episodes, how they are planned, and what counts as solved.

`jepawm evaluate --published NAME` lays the settings over the model's own. Every result then says in which settings it
differs, and what cannot be set: `remarks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jepawm.config.yaml_io import flatten
from jepawm.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class PublishedEvaluation:
    """One published evaluation.

    Attributes:
        paper: Authors, year, title and number.
        env_id: Our environment of the same task.
        frameskip: Environment steps per model step in its models.
        settings: Our settings that repeat it.
        remarks: What it does that no setting repeats, or what it leaves open.
    """

    paper: str
    env_id: str
    frameskip: int
    settings: Mapping[str, Any]
    remarks: tuple[str, ...]

    def differences(self, config: Mapping[str, Any]) -> list[str]:
        """The settings of a run that are not the published ones, each with both values.

        Args:
            config: The run's configuration as plain data.
        """
        asked = flatten({**self.settings, "env": {"id": self.env_id}, "data": {"frameskip": self.frameskip}})
        found = flatten(dict(config))
        return [
            f"{key} {found.get(key)!r} (published: {value!r})"
            for key, value in asked.items()
            if found.get(key) != (list(value) if isinstance(value, tuple) else value)
        ]


_DINO_WM = "Zhou et al. 2024, DINO-WM, arXiv 2411.04983"
_JEPA_WM = "Terver et al. 2025, JEPA-WMs, arXiv 2512.24497"
_LEWM = "LeWM, arXiv 2603.19312"

_DINO_WM_REMARKS = (
    "the number of plans in an episode is not published (as many as it takes); here it is 10",
    "published candidates are not clipped to the action bounds",
    "the published open loop stops its search where all episodes are solved in the simulator",
)
_JEPA_WM_REMARKS = (
    "published episodes depend on the number of GPUs; here they follow from the seed",
    "published rates are means over the last epochs of three training seeds",
)


def _cem(horizon: int, elites: int, iterations: int) -> dict[str, Any]:
    return {
        "name": "cem",
        "horizon": horizon,
        "num_samples": 300,
        "num_elites": elites,
        "num_iterations": iterations,
        "num_iterations_warm": iterations,
        "init_std": 1.0,
        "min_std": 0.0,
        "hold_actions": False,
    }


def _rules(replan_every: int, max_chunks: int, success_at: str) -> dict[str, Any]:
    return {
        "replan_every": replan_every,
        "max_chunks": max_chunks,
        "success_at": success_at,
        "cost": "last",
        "horizon": "fixed",
        "warm_start": False,
    }


def _dino_wm(env_id: str, goal_source: str, iterations: int, proprio_weight: float) -> PublishedEvaluation:
    evaluation = {
        "seed": 99,
        "num_episodes": 50,
        "goal_source": goal_source,
        "goal_offset": 5,
        "solved_at_start": "count",
        "protocols": ["mpc", "open_loop"],
        "mpc": _rules(5, 50, "plan_end"),
        "open_loop": _rules(5, 5, "plan_end"),
    }
    settings = {
        "planner": _cem(5, 30, iterations),
        "objective": {"distance": "l2", "weighting": "last", "proprio_weight": proprio_weight},
        "evaluation": evaluation,
    }
    return PublishedEvaluation(_DINO_WM, env_id, 5, settings, _DINO_WM_REMARKS)


def _jepa_wm(
    env_id: str, goal_source: str, iterations: int, protocol: tuple[str, dict[str, Any]], *remarks: str
) -> PublishedEvaluation:
    name, rules = protocol
    evaluation = {
        "num_episodes": 96,
        "goal_source": goal_source,
        "solved_at_start": "count",
        "protocols": [name],
        name: rules,
    }
    if goal_source == "held_out_replay":
        evaluation["goal_offset"] = 6
    if goal_source == "expert":
        evaluation["goal_offset"] = 20
    settings = {
        "planner": _cem(6, 10, iterations),
        "objective": {"distance": "l2", "weighting": "last", "proprio_weight": 0.1},
        "evaluation": evaluation,
    }
    return PublishedEvaluation(_JEPA_WM, env_id, 5, settings, (*_JEPA_WM_REMARKS, *remarks))


_ONE_PLAN = ("open_loop", _rules(6, 6, "episode_end"))

PUBLISHED_EVALUATIONS: dict[str, PublishedEvaluation] = {
    "dino_wm_pusht": _dino_wm("envs:envs/PushT-v1", "held_out_replay", 30, 1.0),
    "dino_wm_pointmaze": _dino_wm("envs:envs/PointMaze-v1", "sampler", 10, 0.0),
    "dino_wm_wall": _dino_wm("envs:envs/Wall-v1", "sampler", 10, 1.0),
    "jepa_wm_pusht": _jepa_wm("envs:envs/PushT-v1", "held_out_replay", 30, _ONE_PLAN),
    "jepa_wm_pointmaze": _jepa_wm("envs:envs/PointMaze-v1", "sampler", 30, _ONE_PLAN),
    "jepa_wm_wall": _jepa_wm("envs:envs/Wall-v1", "sampler", 30, _ONE_PLAN),
    "jepa_wm_metaworld": _jepa_wm(
        "envs:envs/Metaworld-v1",
        "expert",
        15,
        ("mpc", _rules(3, 20, "episode_end")),
        "some published configurations leave the proprio part of the cost out (proprio weight 0)",
    ),
    "lewm_pusht": PublishedEvaluation(
        _LEWM,
        "envs:envs/PushT-v1",
        5,
        {
            "planner": _cem(5, 30, 30),
            "objective": {"distance": "l2", "weighting": "last"},
            "evaluation": {
                "num_episodes": 50,
                "goal_source": "held_out",
                "goal_offset": 5,
                "solved_at_start": "count",
                "protocols": ["mpc"],
                "mpc": _rules(5, 10, "any_env_step"),
            },
        },
        ("published candidates are not clipped to the action bounds",),
    ),
}


def published_evaluation(name: str) -> PublishedEvaluation:
    """A published evaluation by its name.

    Raises:
        ConfigError: There is none of this name; the message suggests the closest one.
    """
    if name not in PUBLISHED_EVALUATIONS:
        raise ConfigError(f"--published: no published evaluation '{name}'{did_you_mean(name, PUBLISHED_EVALUATIONS)}")
    return PUBLISHED_EVALUATIONS[name]


def published_layer(name: str) -> tuple[str, dict[str, Any]]:
    """The settings of a published evaluation as a layer of a configuration."""
    settings = dict(published_evaluation(name).settings)
    return f"published {name}", {**settings, "evaluation": {**settings["evaluation"], "published": name}}
