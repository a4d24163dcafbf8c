"""An episode set: the starts and goals of an evaluation as one JSON file that people can share."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jepawm.errors import ConfigError, DataError, did_you_mean
from jepawm.rollout import EnvDescription, Task

VERSION = 1
# What a file says of its episodes as a whole.
KEYS = (
    "env_id",
    "env_options",
    "sim_state_names",
    "goal_source",
    "goal_offset_env_steps",
    "seed",
    "solved_at_start",
    "dataset_fingerprint",
)


@dataclass(frozen=True, eq=False)
class EpisodeSet:
    """Which episodes are played.

    Attributes:
        env_id: The environment that the states belong to.
        env_options: `KEY=VALUE` options that it was made with, e.g. its task.
        sim_state_names: Names of the numbers in a state.
        tasks: Starts, goals, variations and, where known, the actions that lead from one to the other.
        goal_source: Where the goals come from, see `EvaluationConfig.goal_source`.
        goal_offset_env_steps: Environment steps from start to goal where the goals come from; None: they have none.
        seed: Of the evaluation that drew them.
        solved_at_start: Tasks that were passed over because they were solved before they began.
        dataset_fingerprint: Of the recordings that the states come from; empty for other sources.
        file: Where the set was read from; empty for one that was drawn.
    """

    env_id: str
    env_options: tuple[str, ...]
    sim_state_names: tuple[str, ...]
    tasks: tuple[Task, ...]
    goal_source: str
    goal_offset_env_steps: int | None
    seed: int
    solved_at_start: int = 0
    dataset_fingerprint: str = ""
    file: str = ""

    @property
    def sha256(self) -> str:
        """Of the tasks: equal ones are the same episodes with the same goals."""
        return tasks_sha256(self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "version": VERSION,
            "env_id": self.env_id,
            "env_options": list(self.env_options),
            "sim_state_names": list(self.sim_state_names),
            "goal_source": self.goal_source,
            "goal_offset_env_steps": self.goal_offset_env_steps,
            "seed": self.seed,
            "solved_at_start": self.solved_at_start,
            "dataset_fingerprint": self.dataset_fingerprint,
            "sha256": self.sha256,
            "episodes": [_task_to_dict(task) for task in self.tasks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "episode set") -> "EpisodeSet":
        """Inverse of `to_dict`.

        Args:
            data: What a file holds.
            where: Named in errors.

        Raises:
            DataError: A key that is missing, unknown or wrong, another version, or episodes that were changed since.
        """
        known = ("version", *KEYS, "sha256", "episodes")
        for key in known:
            if key not in data:
                raise DataError(f"{where}: '{key}' is missing; an episode set has {', '.join(known)}")
        for key in data:
            if key not in known:
                raise DataError(f"{where}: unknown key '{key}'{did_you_mean(key, known)}")
        if data["version"] != VERSION:
            raise DataError(f"{where}: 'version' is {data['version']!r}, this jepawm reads version {VERSION}")
        names = tuple(str(name) for name in data["sim_state_names"])
        rows = enumerate(data["episodes"])
        tasks = tuple(_task_from_dict(row, len(names), f"{where}: episode {at}") for at, row in rows)
        if not tasks:
            raise DataError(f"{where}: 'episodes' is empty, there is nothing to play")
        if len({task.episode_id for task in tasks}) < len(tasks):
            raise DataError(f"{where}: two episodes have the same 'episode_id'")
        facts = {key: data[key] for key in KEYS} | {"sim_state_names": names, "env_options": tuple(data["env_options"])}
        found = cls(tasks=tasks, **facts)
        if data["sha256"] != found.sha256:
            raise DataError(
                f"{where}: the episodes are not those that the file was written with: 'sha256' is "
                f"{str(data['sha256'])[:16]}, the episodes have {found.sha256[:16]}; get the file again, or, if the "
                "change is meant, write the second one into it"
            )
        return found

    def check_environment(self, env_id: str, options: Sequence[str]) -> None:
        """Refuses an environment that the states do not belong to.

        Args:
            env_id: The environment that is asked for.
            options: `KEY=VALUE` options that it is made with.

        Raises:
            ConfigError: Another environment, or one made with other options.
        """
        if self.env_id.rpartition(":")[2] != env_id.rpartition(":")[2]:
            raise ConfigError(
                f"evaluation.episodes: {self.file} holds episodes of {self.env_id}, env.id is {env_id}; pass --env.id "
                f"{self.env_id}, or episodes of {env_id}"
            )
        if sorted(self.env_options) != sorted(options):
            made, found = (", ".join(sorted(each)) or "no options" for each in (self.env_options, options))
            raise ConfigError(
                f"evaluation.episodes: {self.file} was made in an environment with {made}, env.options are {found}; "
                "pass the same --env.options"
            )

    def check_states(self, description: EnvDescription) -> None:
        """Refuses an environment whose states have other numbers.

        Raises:
            ConfigError: Names the numbers of both.
        """
        if self.sim_state_names != description.sim_state.names:
            raise ConfigError(
                f"evaluation.episodes: states in {self.file} are {', '.join(self.sim_state_names)}; those of the "
                f"environment are {', '.join(description.sim_state.names)}: the episodes belong to another version"
            )


def read_episodes(path: str) -> EpisodeSet:
    """Reads an episode set.

    Raises:
        DataError: No such file, not JSON, or not an episode set.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"evaluation.episodes: {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"evaluation.episodes: {path} must hold a mapping, found {type(data).__name__}")
    found = EpisodeSet.from_dict(data, path)
    return replace(found, file=os.path.abspath(path))


def tasks_sha256(tasks: Sequence[Task]) -> str:
    """SHA-256 of episode ids, seeds, starts, goals and variations."""
    facts = [
        [task.episode_id, task.seed, task.start.tolist(), task.goal.tolist()]
        + ([] if task.variation is None else [task.variation])
        for task in tasks
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _task_to_dict(task: Task) -> dict[str, Any]:
    return {
        "episode_id": task.episode_id,
        "seed": task.seed,
        "start": task.start.tolist(),
        "goal": task.goal.tolist(),
        "variation": task.variation,
        # Through float32's shortest text, so that a file of many episodes stays small; read back to the bit.
        "actions": None if task.actions is None else [[float(str(x)) for x in row] for row in task.actions],
    }


def _task_from_dict(row: Any, width: int, where: str) -> Task:
    keys = ("episode_id", "seed", "start", "goal", "variation", "actions")
    if not isinstance(row, dict) or set(row) != set(keys):
        found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{where}: expected {', '.join(keys)}, found {found}")
    try:
        start, goal = (np.asarray(row[key], np.float64) for key in ("start", "goal"))
        actions = None if row["actions"] is None else np.asarray(row["actions"], np.float32)
        task = Task(int(row["episode_id"]), int(row["seed"]), start, goal, row["variation"], actions)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
    for name, state in (("start", start), ("goal", goal)):
        if state.shape != (width,) or not np.isfinite(state).all():
            raise DataError(f"{where}: '{name}' must be {width} finite numbers, one for each of 'sim_state_names'")
    if actions is not None and (actions.ndim != 2 or not np.isfinite(actions).all()):
        raise DataError(f"{where}: 'actions' must be rows of finite numbers, one row an env_step")
    return task
