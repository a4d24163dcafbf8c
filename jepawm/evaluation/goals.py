"""Which episodes are played and which goals they have: from (seed, episode id) alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from jepawm.config import EnvConfig, EvaluationConfig
from jepawm.config.evaluation import FROM_RECORDINGS, WITH_OFFSET
from jepawm.errors import ConfigError, DataError, EnvironmentFault
from jepawm.evaluation.episodes import EpisodeSet
from jepawm.rollout import EnvPool, Task
from jepawm.seeding import stream_seed

# Policies that no person wrote for an environment.
NO_EXPERT = ("uniform", "random_walk")


class RecordedEpisodes(Protocol):
    """What goals from data need of a dataset: `jepawm.data.EpisodeDataset` has it."""

    @property
    def fingerprint(self) -> str:
        """Of the dataset."""
        ...

    @property
    def env_steps_per_frame(self) -> int:
        """Environment steps between two recorded frames."""
        ...

    def num_frames(self, episode_id: int) -> int:
        """Frames of an episode."""
        ...

    def info(self, episode_id: int) -> dict[str, Any]:
        """The facts stored with an episode; `variation` is one, where factors of the environment varied."""
        ...

    def read_column(self, name: str, episode_id: int) -> np.ndarray:
        """One column of an episode, without decoding its frames; a row of `actions` is of one environment step."""
        ...


@dataclass(frozen=True)
class HeldOutEpisodes:
    """Episodes that training has not seen.

    Attributes:
        dataset: Where they are.
        ids: Which of its episodes.
    """

    dataset: RecordedEpisodes
    ids: tuple[int, ...]

    @classmethod
    def of(cls, dataset: RecordedEpisodes, ids: Sequence[int] | np.ndarray) -> "HeldOutEpisodes":
        """Held-out episodes of a dataset, in ascending order."""
        return cls(dataset, tuple(sorted(int(episode_id) for episode_id in ids)))


def task_seed(seed: int, episode_id: int) -> int:
    """Seed of an episode's task: `seed * episode_id + 1`, the published numbering, modulo 2^32.

    The published samplers are numpy's `RandomState`, which takes no larger seed.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983 (evaluation seeds 1, 100, 199, ... for seed 99).
    """
    return (seed * episode_id + 1) % 2**32


def draw_episodes(
    evaluation: EvaluationConfig,
    env: EnvConfig,
    pool: EnvPool,
    held_out: HeldOutEpisodes | None,
    *,
    env_steps_to_goal: int,
) -> EpisodeSet:
    """Starts and goals as `evaluation.goal_source` says.

    Args:
        evaluation: Source, seed and number of the episodes.
        env: The environment of the pool.
        pool: Hosts of the environment; they judge which tasks are solved at the start.
        held_out: For the sources that take states of recorded episodes.
        env_steps_to_goal: Environment steps between start and goal, for the sources that have them.

    Returns:
        `evaluation.num_episodes` tasks; those solved at the start are passed over or kept, as
        `evaluation.solved_at_start` says.

    Raises:
        ConfigError: No held-out episodes for a source that needs them; recorded walls that another variation moves.
        DataError: No held-out episode is long enough, or almost all tasks are solved at the start.
        EnvironmentFault: An environment without a scripted policy where `expert` asks for one.
    """
    source = evaluation.goal_source
    if source == "image":
        raise ConfigError(
            "evaluation.goal_source 'image' has pictures for goals, not states: they are no episode set; name them in "
            "an evaluation (--evaluation.goal-images)"
        )
    draw: Callable[[Sequence[int]], list[Task]]
    if source in FROM_RECORDINGS:
        if held_out is None:
            raise ConfigError(f"evaluation.goal_source '{source}' needs the dataset the goals are taken from")
        recorded = _Recorded(pool, held_out, evaluation.seed, 0 if source == "other_episode" else env_steps_to_goal)
        draw = {"held_out": recorded.tasks, "held_out_replay": recorded.replayed_tasks}.get(
            source, recorded.tasks_across_episodes
        )
    elif source == "sampler":
        draw = _sampler(pool, evaluation.seed)
    else:
        policy = evaluation.goal_policy if source == "expert" else "uniform"
        draw = _policy_goals(pool, evaluation.seed, policy, env_steps_to_goal, needs_expert=source == "expert")
    tasks, solved_at_start = _tasks_to_play(
        pool, draw, evaluation.num_episodes, keep_solved=evaluation.solved_at_start == "count"
    )
    return EpisodeSet(
        env_id=env.id,
        env_options=env.options,
        sim_state_names=pool.describe().sim_state.names,
        tasks=tuple(tasks),
        goal_source=source,
        goal_offset_env_steps=env_steps_to_goal if source in WITH_OFFSET else None,
        seed=evaluation.seed,
        solved_at_start=solved_at_start,
        dataset_fingerprint=held_out.dataset.fingerprint if held_out is not None and source in FROM_RECORDINGS else "",
    )


def sampled_tasks(pool: EnvPool, *, seed: int, num_episodes: int) -> tuple[list[Task], int]:
    """Tasks from the environment's own sampler; those solved at the start are passed over.

    Args:
        pool: Hosts of the environment.
        seed: Of the evaluation.
        num_episodes: Tasks wanted.

    Returns:
        Exactly `num_episodes` tasks that are not solved at their start, and how many were passed over.
    """
    return _tasks_to_play(pool, _sampler(pool, seed), num_episodes)


def _sampler(pool: EnvPool, seed: int) -> Callable[[Sequence[int]], list[Task]]:
    return lambda ids: pool.sample_tasks(ids, [task_seed(seed, episode_id) for episode_id in ids])


def _policy_goals(
    pool: EnvPool, seed: int, policy: str, env_steps: int, *, needs_expert: bool
) -> Callable[[Sequence[int]], list[Task]]:
    """Starts from the environment's sampler; the goal is where a policy is some environment steps later."""

    def draw(ids: Sequence[int]) -> list[Task]:
        starts = _sampler(pool, seed)(ids)
        seeded = [replace(task, seed=stream_seed(seed, "goal policy", task.episode_id) % 2**31) for task in starts]
        followed = pool.follow_policy(seeded, policy, env_steps)
        if needs_expert and followed[0].policy in NO_EXPERT:
            raise EnvironmentFault(
                "evaluation.goal_source 'expert' needs a policy that was written for the environment, and there is "
                "none; take --evaluation.goal-source sampler"
            )
        # An environment that returns to few states says here that this goal is none of them.
        pool.render([followed[0].sim_states[-1]], [starts[0].variation])
        return [
            replace(task, goal=way.sim_states[-1], actions=way.actions)
            for task, way in zip(starts, followed, strict=True)
        ]

    return draw


def held_out_tasks(
    pool: EnvPool, held_out: HeldOutEpisodes, *, seed: int, num_episodes: int, env_steps_to_goal: int
) -> tuple[list[Task], int]:
    """Starts and goals from held-out episodes: a state, and the one `env_steps_to_goal` later.

    Args:
        pool: Hosts of the environment; they judge which tasks are solved at the start.
        held_out: Where the states are.
        seed: Of the evaluation.
        num_episodes: Tasks wanted.
        env_steps_to_goal: Environment steps between start and goal in the data.

    Returns:
        Exactly `num_episodes` tasks that are not solved at their start, and how many were passed over.

    Raises:
        ConfigError: The environment varies its walls or shapes, and the episodes were recorded among others.
        DataError: No held-out episode is long enough, or the dataset holds no simulator states.
    """
    return _tasks_to_play(pool, _Recorded(pool, held_out, seed, env_steps_to_goal).tasks, num_episodes)


class _Recorded:
    """Draws tasks from states of held-out episodes.

    Args:
        pool: Hosts of the environment.
        held_out: Where the states are.
        seed: Of the evaluation.
        env_steps: Environment steps between start and goal.
    """

    def __init__(self, pool: EnvPool, held_out: HeldOutEpisodes, seed: int, env_steps: int) -> None:
        self._pool, self._dataset, self._seed = pool, held_out.dataset, seed
        self._env_steps_per_frame = held_out.dataset.env_steps_per_frame
        if env_steps % self._env_steps_per_frame:
            raise ConfigError(
                f"the recordings hold a state every {self._env_steps_per_frame} environment steps; goals must lie a "
                f"multiple of that after the start, found {env_steps}"
            )
        self._num_frames = env_steps // self._env_steps_per_frame
        self._lengths = {episode_id: held_out.dataset.num_frames(episode_id) for episode_id in held_out.ids}
        self._long_enough = sorted(each for each, frames in self._lengths.items() if frames > self._num_frames)
        if not self._long_enough:
            raise DataError(
                f"evaluation.goal_offset asks for goals {env_steps} environment steps after the start, but the "
                f"longest of {len(self._lengths)} held-out episodes has {max(self._lengths.values(), default=0)} "
                f"frames, {self._env_steps_per_frame} environment steps apart; lower evaluation.goal_offset or raise "
                "data.held_out_fraction"
            )
        self._physical = pool.describe().physical_factors

    def tasks(self, ids: Sequence[int]) -> list[Task]:
        """A state, and the recorded one some environment steps later."""
        states, variations, actions = [], [], []
        for episode_id, varied in zip(ids, self._varied(ids), strict=True):
            rng = np.random.default_rng([self._seed, episode_id])
            source = self._long_enough[int(rng.integers(len(self._long_enough)))]
            start = int(rng.integers(self._lengths[source] - self._num_frames))
            end, rate = start + self._num_frames, self._env_steps_per_frame
            recorded = self._dataset.read_column("sim_state", source)
            states += [recorded[start], recorded[end]]
            actions.append(self._dataset.read_column("actions", source)[start * rate : end * rate])
            variations.append(self._variation(varied, source))
        states = self._pool.complete(states)
        rows = zip(ids, states[::2], states[1::2], variations, actions, strict=True)
        return [Task(row[0], task_seed(self._seed, row[0]), *row[1:]) for row in rows]

    def replayed_tasks(self, ids: Sequence[int]) -> list[Task]:
        """The same starts; the goal is where the recorded actions lead in this environment."""
        tasks = self.tasks(ids)
        self._pool.begin(tasks)
        chunks = np.stack([np.asarray(task.actions) for task in tasks])[:, None]
        executed = self._pool.execute([task.episode_id for task in tasks], chunks, last=1)
        self._pool.finish()
        return [replace(task, goal=each.sim_states[-1]) for task, each in zip(tasks, executed, strict=True)]

    def tasks_across_episodes(self, ids: Sequence[int]) -> list[Task]:
        """A state of one held-out episode, and one of another."""
        sources = sorted(self._lengths)
        if len(sources) < 2:
            raise DataError(
                f"evaluation.goal_source 'other_episode' needs at least 2 held-out episodes, found {len(sources)}; "
                "raise data.held_out_fraction"
            )
        states, variations = [], []
        for episode_id, varied in zip(ids, self._varied(ids), strict=True):
            rng = np.random.default_rng([self._seed, episode_id])
            first, second = (sources[int(at)] for at in rng.choice(len(sources), size=2, replace=False))
            for source in (first, second):
                recorded = self._dataset.read_column("sim_state", source)
                states.append(recorded[int(rng.integers(len(recorded)))])
            variation, others = self._variation(varied, first), self._variation(varied, second)
            moved = [name for name in self._physical if (variation or {}).get(name) != (others or {}).get(name)]
            if moved:
                raise ConfigError(
                    f"evaluation.goal_source 'other_episode': {', '.join(moved)} differs between held-out episodes "
                    f"{first} and {second}, so a state of one may be impossible in the other; take held_out"
                )
            variations.append(variation)
        states = self._pool.complete(states)
        rows = zip(ids, states[::2], states[1::2], variations, strict=True)
        return [Task(row[0], task_seed(self._seed, row[0]), *row[1:]) for row in rows]

    def _varied(self, ids: Sequence[int]) -> list[dict[str, Any] | None]:
        return self._pool.sample_variations([task_seed(self._seed, episode_id) for episode_id in ids])

    def _variation(self, varied: dict[str, Any] | None, source: int) -> dict[str, Any] | None:
        """What varies in a task: what was recorded stays, for states belong to the shapes and walls around them."""
        recorded = self._dataset.info(source).get("variation")
        moved = [name for name in self._physical if name in (varied or {}) and name not in (recorded or {})]
        if moved:
            raise ConfigError(
                f"env.vary: {', '.join(moved)} would be another than where held-out episode {source} was recorded, "
                "whose states may then lie in a wall or in each other; vary what is for the eye alone, or take "
                "--evaluation.goal-source sampler"
            )
        return varied if recorded is None else (varied or {}) | recorded


def _tasks_to_play(
    pool: EnvPool, draw: Callable[[Sequence[int]], list[Task]], num_episodes: int, *, keep_solved: bool = False
) -> tuple[list[Task], int]:
    """Draws tasks until there are enough that are not solved at their start; or as many as wanted, and counts those."""
    tasks: list[Task] = []
    already_solved, next_id = 0, 0
    while len(tasks) < num_episodes:
        ids = list(range(next_id, next_id + num_episodes - len(tasks)))
        next_id += len(ids)
        drawn = draw(ids)
        solved = pool.solved([task.start for task in drawn], [task.goal for task in drawn])
        tasks += [task for task, already in zip(drawn, solved, strict=True) if keep_solved or not already]
        already_solved += sum(solved)
        if len(tasks) < num_episodes and next_id >= 50 * num_episodes:
            raise DataError(
                f"{already_solved} of the first {next_id} tasks are solved before they begin; choose goals further "
                "away (evaluation.goal_offset), or count them (evaluation.solved_at_start)"
            )
    return tasks, already_solved
