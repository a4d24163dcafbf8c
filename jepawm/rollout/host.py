"""Several environments in one process, driven by action chunks. An environment actor wraps one host."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepawm.config import EnvConfig
from jepawm.data.encoding import EncodedEpisode, encode_episode
from jepawm.errors import EnvironmentFault
from jepawm.rollout.faults import environment_fault, show_action
from jepawm.rollout.make import make_env
from jepawm.rollout.policy import policy_for_episode
from jepawm.rollout.records import CollectPlan, EnvDescription, Executed, Followed, Observed, Task
from jepawm.types import ActionSpec, Episode, VectorSpec

# After this time a host answers with the episodes it has collected so far. The time lies far below the one after which
# a host counts as dead (scaling.env_call_timeout_s), so a slow environment is not taken for a dead host.
LONGEST_COLLECT_S = 30.0


@dataclass
class _Running:
    """A running episode: its environment, its task, and the env_steps made since its start."""

    env: Any
    task: Task
    env_step: int = 0


class EnvHost:
    """Holds one environment per running episode and reuses them.

    Every public method takes and returns plain data, so that the caller may live in another process. All randomness
    comes from the seeds in the arguments.

    The host makes its first environment at the first call, so that an environment that cannot be made raises its
    `EnvironmentFault` there and not in the constructor.

    Args:
        config: Which environment, at which frame size.

    Attributes:
        env_steps: Environment steps made since the host started.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.env_steps = 0
        self._idle: list[Any] = []
        self._running: dict[int, _Running] = {}

    @property
    def _first_idle(self) -> Any:
        if not self._idle:
            self._idle.append(make_env(self.config))
        return self._idle[0]

    @property
    def _bare(self) -> Any:
        return self._first_idle.unwrapped

    def pid(self) -> int:
        """Process id of this host."""
        return os.getpid()

    def describe(self) -> EnvDescription:
        """The environment's specifications."""
        bare = self._bare
        # Wrappers may change the action space, so the host reads it from the outermost one.
        space = self._first_idle.action_space
        names = tuple(getattr(bare, "action_names", ()))
        return EnvDescription(
            control_hz=float(bare.control_hz),
            action=ActionSpec(
                dim=space.shape[0],
                low=tuple(float(x) for x in space.low),
                high=tuple(float(x) for x in space.high),
                max_norm=getattr(bare, "action_max_norm", None),
                names=names,
                units=getattr(bare, "action_units", ""),
            ),
            proprio=VectorSpec(bare.observation_space["proprio"].shape[0], tuple(bare.proprio_names)),
            sim_state=VectorSpec(len(bare.sim_state_names), tuple(bare.sim_state_names)),
            distance_name=getattr(bare, "distance_name", ""),
            physical_factors=tuple(
                name
                for name, factor in (getattr(bare, "factors", None) or {}).items()
                if getattr(factor, "physical", False)
            ),
        )

    def sample_tasks(self, episode_ids: Sequence[int], seeds: Sequence[int]) -> list[Task]:
        """Start and goal of each episode from the environment's own sampler."""
        bare, tasks = self._bare, []
        for episode_id, seed, variation in zip(episode_ids, seeds, self.sample_variations(seeds), strict=True):
            arguments = (seed,) if variation is None else (seed, variation)
            start, goal = bare.sample_start_goal(*arguments)
            states = np.asarray(start, np.float64), np.asarray(goal, np.float64)
            tasks.append(Task(episode_id, seed, *states, variation))
        return tasks

    def sample_variations(self, seeds: Sequence[int]) -> list[dict[str, Any] | None]:
        """What varies in the task of each seed; None if the environment was made without `vary`."""
        bare = self._bare
        return [bare.sample_variation(seed) if getattr(bare, "vary", ()) else None for seed in seeds]

    def render(
        self, sim_states: Sequence[np.ndarray], variations: Sequence[dict[str, Any] | None] | None = None
    ) -> np.ndarray:
        """Draws simulator states.

        Args:
            sim_states: `n` states `[S]`.
            variations: The variation of each picture; None: the environment as it was made.

        Returns:
            `[n,Y,X,C]` uint8.
        """
        bare = self._bare
        if not getattr(bare, "factors", None):
            return np.stack([bare.render_state(state) for state in sim_states])
        # Without an argument the environment would draw the variation of its last episode; {} draws none.
        variation_of = [None] * len(sim_states) if variations is None else variations
        pairs = zip(sim_states, variation_of, strict=True)
        return np.stack([bare.render_state(state, variation or {}) for state, variation in pairs])

    def proprio(self, sim_states: Sequence[np.ndarray]) -> np.ndarray:
        """`[n,R]` float32 proprio of simulator states.

        Raises:
            EnvironmentFault: The environment has no `proprio(sim_state)`.
        """
        bare = self._bare
        if not callable(getattr(bare, "proprio", None)):
            raise EnvironmentFault(
                f"env.id '{self.config.id}' lacks proprio(sim_state), which a model that reads proprio needs for its "
                "goals; docs/extend/environment.md says what an environment must offer"
            )
        return np.stack([np.asarray(bare.proprio(state), np.float32) for state in sim_states])

    def solved(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[bool]:
        """The goal condition of each pair of states."""
        return [bool(self._bare.success(state, goal)) for state, goal in zip(sim_states, goals, strict=True)]

    def distances(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[float]:
        """The distance between each pair of states, in the unit of `EnvDescription.distance_name`."""
        return [float(self._bare.distance(state, goal)) for state, goal in zip(sim_states, goals, strict=True)]

    def complete(self, states: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Recorded states as simulator states; in a state without velocities the agent rests.

        Raises:
            EnvironmentFault: A state has a width that the environment cannot complete.
        """
        bare = self._bare
        width = len(bare.sim_state_names)
        completed = []
        for state in states:
            if len(state) == width:
                completed.append(np.asarray(state, np.float64))
            elif hasattr(bare, "sim_state_from_pose"):
                completed.append(np.asarray(bare.sim_state_from_pose(state), np.float64))
            else:
                raise EnvironmentFault(
                    f"recorded states have {len(state)} numbers, env.id '{self.config.id}' resets to {width}: "
                    f"{', '.join(bare.sim_state_names)}"
                )
        return completed

    def begin(self, tasks: Sequence[Task]) -> list[Observed]:
        """Resets one environment per task to its start.

        Raises:
            EnvironmentFault: An environment raised an error.
        """
        observed = []
        for task in tasks:
            previous = self._running.pop(task.episode_id, None)
            if previous is not None:
                env = previous.env
            else:
                env = self._idle.pop() if self._idle else make_env(self.config)
            self._running[task.episode_id] = _Running(env, task)
            options: dict[str, Any] = {"sim_state": task.start, "goal": task.goal}
            if task.variation is not None:
                options["variation"] = task.variation
            try:
                seen, info = env.reset(seed=task.seed, options=options)
            except Exception as error:
                doing = f"in reset, episode {task.episode_id}, seed {task.seed}"
                raise environment_fault(error, self.config.id, doing) from error
            observed.append(Observed(*_copied(seen, info)))
        return observed

    def execute(
        self, episode_ids: Sequence[int], chunks: np.ndarray, record: Sequence[int] = (), last: int = 0
    ) -> list[Executed]:
        """Executes action chunks, open loop.

        Args:
            episode_ids: `B` running episodes.
            chunks: `[B,n,frameskip,a]` raw actions.
            record: Episodes of which every frame is returned as well.
            last: Draw and return only the frames after this many last chunks; 0: after each chunk.

        Returns:
            One result per episode, in order.

        Raises:
            EnvironmentFault: An episode was not begun in this host, or an environment raised an error.
        """
        results = []
        for episode_id, actions in zip(episode_ids, chunks, strict=True):
            if episode_id not in self._running:
                raise EnvironmentFault(f"episode {episode_id} was not begun in this host")
            running = self._running[episode_id]
            env, task, bare = running.env, running.task, running.env.unwrapped
            advance = _advance_of(env)
            first = len(actions) - (last or len(actions))
            frames, proprio, states, solved, recorded = [], [], [], [], []
            for number, chunk in enumerate(actions):
                for step, action in enumerate(chunk):
                    wanted = step == len(chunk) - 1 and number >= first
                    drawn = wanted or episode_id in record or advance is None
                    try:
                        if drawn or advance is None:
                            seen, _, _, _, info = env.step(action)
                        else:
                            state = np.array(advance(action))
                    except Exception as error:
                        doing = (
                            f"in step, episode {episode_id}, env_step {running.env_step}, action {show_action(action)}"
                        )
                        raise environment_fault(error, self.config.id, doing) from error
                    running.env_step += 1
                    self.env_steps += 1
                    if drawn:
                        pixels, felt, state = _copied(seen, info)
                        if wanted:
                            frames.append(pixels)
                            proprio.append(np.asarray(felt, np.float32))
                        if episode_id in record:
                            recorded.append(pixels)
                    states.append(state)
                    solved.append(bool(bare.success(state, task.goal)))
            shown = np.stack(recorded) if recorded else None
            results.append(Executed(np.stack(frames), np.stack(proprio), np.stack(states), np.array(solved), shown))
        return results

    def follow_policy(self, tasks: Sequence[Task], policy: str, env_steps: int) -> list[Followed]:
        """Plays a policy from the start of each task; running episodes do not change.

        Actions that are longer than the environment's `action_max_norm` are shortened to it, for plans keep to it too.

        Args:
            tasks: Their starts, seeds and variations count; their goals do not.
            policy: See `CollectPlan.policy`.
            env_steps: Actions in each episode; fewer where the environment ends it.

        Raises:
            EnvironmentFault: No policy has this name, or it was made for another environment.
        """
        env, followed = self._first_idle, []
        advance, longest = _advance_of(env), getattr(env.unwrapped, "action_max_norm", None)
        for task in tasks:
            name, act = policy_for_episode(env, policy, seed=task.seed, reset_seed=task.seed)
            options: dict[str, Any] = {"sim_state": task.start}
            if task.variation is not None:
                options["variation"] = task.variation
            _, info = env.reset(seed=task.seed, options=options)
            states, ended = [np.array(info["sim_state"])], False
            actions: list[np.ndarray] = []
            while len(actions) < env_steps and not ended:
                actions.append(_within_norm(np.asarray(act(states[-1]), dtype=np.float32), longest))
                if advance is None:
                    _, _, terminated, truncated, info = env.step(actions[-1])
                    self.env_steps += 1
                    states.append(np.array(info["sim_state"]))
                    ended = terminated or truncated
                else:
                    states.append(np.array(advance(actions[-1])))
            followed.append(Followed(np.stack(actions), np.stack(states), name))
        return followed

    def finish(self) -> None:
        """Ends all running episodes; their environments are used again for later episodes."""
        self._idle.extend(running.env for running in self._running.values())
        self._running.clear()

    def collect(self, episode_ids: Sequence[int], plan: CollectPlan) -> list[EncodedEpisode]:
        """Runs a policy from random starts.

        Args:
            episode_ids: Which episodes; with the plan's seed they fix everything random.
            plan: The policy, the length of an episode and the codec of its frames.

        Returns:
            Episodes of `plan.env_steps / plan.env_steps_per_frame + 1` frames, fewer where the environment ended the
            episode (then the actions after the last kept frame are left out, too). The host encodes them, so that many
            hosts share that work. If all episodes take longer than `LONGEST_COLLECT_S`: only the first ones, at least
            one.

        Raises:
            EnvironmentFault: The environment ended an episode before its second kept frame.
        """
        env, began = self._first_idle, time.monotonic()
        episodes: list[EncodedEpisode] = []
        for episode_id in episode_ids:
            episodes.append(encode_episode(self._collect_one(env, episode_id, plan), plan.codec))
            if time.monotonic() - began > LONGEST_COLLECT_S:
                break
        return episodes

    def _collect_one(self, env: Any, episode_id: int, plan: CollectPlan) -> Episode:
        reset_seed, policy_seed = (
            int(word) for word in np.random.SeedSequence([plan.seed, episode_id]).generate_state(2, dtype=np.uint32)
        )
        policy, act = policy_for_episode(env, plan.policy, seed=policy_seed, reset_seed=reset_seed)
        try:
            seen, info = env.reset(seed=reset_seed)
        except Exception as error:
            doing = f"in reset, episode {episode_id}, seed {reset_seed}"
            raise environment_fault(error, self.config.id, doing) from error
        episode_info = {"seed": plan.seed, "policy": policy}
        if info.get("variation"):
            episode_info["variation"] = info["variation"]
        columns = [_copied(seen, info)]
        actions: list[np.ndarray] = []
        state, ended = info["sim_state"], False
        advance = _advance_of(env)
        while len(actions) < plan.env_steps and not ended:
            env_step = len(actions)
            action = np.asarray(act(state), dtype=np.float32)
            actions.append(action)
            is_kept = len(actions) % plan.env_steps_per_frame == 0
            try:
                if advance is not None and not is_kept:
                    state = advance(action)
                    continue
                seen, _, terminated, truncated, info = env.step(action)
                self.env_steps += 1
            except Exception as error:
                doing = f"in step, episode {episode_id}, env_step {env_step}, action {show_action(action)}"
                raise environment_fault(error, self.config.id, doing) from error
            state = info["sim_state"]
            if is_kept:
                columns.append(_copied(seen, info))
            # The episode is kept although it is short: dropping such episodes would bias the dataset.
            ended = terminated or truncated
        if len(columns) < 2:
            raise EnvironmentFault(
                f"episode {episode_id} ended after {len(actions)} env_steps, before its second frame; lower "
                "data.env_steps_per_frame"
            )
        actions = actions[: (len(columns) - 1) * plan.env_steps_per_frame]
        frames, proprio, states = zip(*columns, strict=True)
        return Episode(
            episode_id=episode_id,
            pixels=np.stack(frames),
            actions=np.stack(actions),
            proprio=np.stack(proprio).astype(np.float32),
            sim_state=np.stack(states).astype(np.float64),
            info=episode_info,
        )

    def close(self) -> None:
        """Closes every environment."""
        self.finish()
        while self._idle:
            self._idle.pop().close()


def _copied(seen: dict[str, Any], info: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, proprio and sim_state of one moment; copies, for an environment may reuse its arrays at the next step."""
    return np.array(seen["pixels"]), np.array(seen["proprio"]), np.array(info["sim_state"])


def _within_norm(action: np.ndarray, longest: float | None) -> np.ndarray:
    norm = float(np.linalg.norm(action))
    return action if longest is None or norm <= longest else (action * (longest / norm)).astype(action.dtype)


def _advance_of(env: Any) -> Any:
    """Steps without drawing, for frames that nobody asks for; None where the environment cannot, or is wrapped."""
    return getattr(env.unwrapped, "advance", None) if _is_unwrapped(env) else None


def _is_unwrapped(env: Any) -> bool:
    """Whether `advance` of the bare environment does what `step` does: no wrapper in between changes actions."""
    from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker

    while isinstance(env, OrderEnforcing | PassiveEnvChecker):
        env = env.env
    return env is env.unwrapped
