"""Which episodes are played and which goals they have: from (seed, episode id) alone."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from jepawm.errors import ConfigError, DataError
from jepawm.rollout import EnvPool, Task


class HeldOutStates(Protocol):
    """What goals from data need of a dataset: `jepawm.data.EpisodeDataset` has it."""

    def num_frames(self, episode_id: int) -> int:
        """Frames of an episode."""
        ...

    def info(self, episode_id: int) -> dict[str, Any]:
        """The facts stored with an episode; `variation` is one, where factors of the environment varied."""
        ...

    def read_column(self, name: str, episode_id: int) -> np.ndarray:
        """One column of an episode, without decoding its frames."""
        ...


def task_seed(seed: int, episode_id: int) -> int:
    """Seed of an episode's task: `seed * episode_id + 1`, the published numbering.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983 (evaluation seeds 1, 100, 199, ... for seed 99).
    """
    return seed * episode_id + 1


def sampled_tasks(pool: EnvPool, *, seed: int, num_episodes: int) -> tuple[list[Task], int]:
    """Tasks from the environment's own sampler; those solved at the start are passed over.

    Args:
        pool: Hosts of the environment.
        seed: Of the evaluation.
        num_episodes: Tasks wanted.

    Returns:
        Exactly `num_episodes` tasks that are not solved at their start, and how many were passed over.
    """
    return _unsolved(
        pool,
        lambda ids: pool.sample_tasks(ids, [task_seed(seed, episode_id) for episode_id in ids]),
        num_episodes,
    )


def held_out_tasks(
    pool: EnvPool,
    dataset: HeldOutStates,
    held_out_ids: Sequence[int],
    *,
    seed: int,
    num_episodes: int,
    env_steps_to_goal: int,
) -> tuple[list[Task], int]:
    """Starts and goals from held-out episodes: a state, and the one `env_steps_to_goal` later.

    Args:
        pool: Hosts of the environment; they judge which tasks are solved at the start.
        dataset: Where the states are.
        held_out_ids: Episodes that training has not seen.
        seed: Of the evaluation.
        num_episodes: Tasks wanted.
        env_steps_to_goal: Environment steps between start and goal in the data.

    Returns:
        Exactly `num_episodes` tasks that are not solved at their start, and how many were passed over.

    Raises:
        ConfigError: The environment varies its walls or shapes, and the episodes were recorded among others.
        DataError: No held-out episode is long enough, or the dataset holds no simulator states.
    """
    lengths = {episode_id: dataset.num_frames(episode_id) for episode_id in held_out_ids}
    long_enough = sorted(episode_id for episode_id, frames in lengths.items() if frames > env_steps_to_goal)
    if not long_enough:
        raise DataError(
            f"evaluation.goal_offset asks for goals {env_steps_to_goal} environment steps after the start, but the "
            f"longest of {len(lengths)} held-out episodes has {max(lengths.values(), default=0)} frames; lower "
            "evaluation.goal_offset or raise data.held_out_fraction"
        )

    physical = pool.describe().physical_factors

    def draw(ids: Sequence[int]) -> list[Task]:
        states, variations = [], []
        drawn = pool.sample_variations([task_seed(seed, episode_id) for episode_id in ids])
        for episode_id, varied in zip(ids, drawn, strict=True):
            rng = np.random.default_rng([seed, episode_id])
            source = long_enough[int(rng.integers(len(long_enough)))]
            start = int(rng.integers(lengths[source] - env_steps_to_goal))
            recorded = dataset.read_column("sim_state", source)
            states += [recorded[start], recorded[start + env_steps_to_goal]]
            # What was recorded stays: states belong to the shapes and walls they were recorded among.
            recorded_variation = dataset.info(source).get("variation")
            moved = [name for name in physical if name in (varied or {}) and name not in (recorded_variation or {})]
            if moved:
                raise ConfigError(
                    f"env.vary: {', '.join(moved)} would be another than where held-out episode {source} was recorded, "
                    "whose states may then lie in a wall or in each other; vary what is for the eye alone, or take "
                    "--evaluation.goal-source sampler"
                )
            variations.append(varied if recorded_variation is None else (varied or {}) | recorded_variation)
        states = pool.complete(states)
        rows = zip(ids, states[::2], states[1::2], variations, strict=True)
        return [
            Task(episode_id, task_seed(seed, episode_id), start, goal, variation)
            for episode_id, start, goal, variation in rows
        ]

    return _unsolved(pool, draw, num_episodes)


def _unsolved(pool: EnvPool, draw: Callable[[Sequence[int]], list[Task]], num_episodes: int) -> tuple[list[Task], int]:
    tasks: list[Task] = []
    passed_over, next_id = 0, 0
    while len(tasks) < num_episodes:
        ids = list(range(next_id, next_id + num_episodes - len(tasks)))
        next_id += len(ids)
        drawn = draw(ids)
        solved = pool.solved([task.start for task in drawn], [task.goal for task in drawn])
        tasks += [task for task, already in zip(drawn, solved, strict=True) if not already]
        passed_over += sum(solved)
        if len(tasks) < num_episodes and next_id >= 50 * num_episodes:
            raise DataError(
                f"{passed_over} of the first {next_id} tasks are solved before they begin; choose goals further away "
                "(evaluation.goal_offset)"
            )
    return tasks, passed_over
