"""Several environments in one process, driven by action chunks. The body of an environment actor."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepawm.config import EnvConfig
from jepawm.data.encoding import EncodedEpisode, encode_episode
from jepawm.errors import EnvironmentFault
from jepawm.rollout.make import make_env
from jepawm.types import ActionSpec, Episode, VectorSpec

# A host answers after this time with what it has collected: far below the time after which it counts as dead
# (scaling.env_call_timeout_s), however slow the environment is.
LONGEST_COLLECT_S = 30.0


@dataclass(frozen=True)
class EnvDescription:
    """What a dataset and a planner need to know about an environment.

    Attributes:
        control_hz: Environment steps per simulated second.
        action: One environment step's action.
        proprio: Names of the proprio numbers.
        sim_state: Names of the simulator state's numbers.
        distance_name: What the distance to a goal measures, with its unit; empty where there is none.
        physical_factors: Factors of variation that change where things can be or how they move.
    """

    control_hz: float
    action: ActionSpec
    proprio: VectorSpec
    sim_state: VectorSpec
    distance_name: str = ""
    physical_factors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One episode to solve.

    Attributes:
        episode_id: Fixes, with the evaluation's seed, everything random about the episode.
        seed: For the environment's own generator.
        start: `[S]` simulator state to reset to.
        goal: `[S]` simulator state whose picture is the goal.
        variation: Values of the environment's factors of variation in this episode; None: as it was made.
    """

    episode_id: int
    seed: int
    start: np.ndarray
    goal: np.ndarray
    variation: dict[str, Any] | None = None


@dataclass(frozen=True)
class Observed:
    """What is seen at one moment: `pixels [Y,X,C]` uint8, `proprio [R]`, and the simulator truth `sim_state [S]`."""

    pixels: np.ndarray
    proprio: np.ndarray
    sim_state: np.ndarray


@dataclass(frozen=True)
class Executed:
    """What executing chunks brought.

    Attributes:
        pixels: `[k,Y,X,C]` uint8 frames after each of the last `k` chunks.
        proprio: `[k,R]` float32 at the same moments.
        sim_states: `[n*frameskip,S]` after each environment step.
        solved: `[n*frameskip]` bool, the goal condition after each environment step.
        recorded: `[n*frameskip,Y,X,C]` uint8 frames after each environment step, of an episode that is recorded.
    """

    pixels: np.ndarray
    proprio: np.ndarray
    sim_states: np.ndarray
    solved: np.ndarray
    recorded: np.ndarray | None = None


@dataclass(frozen=True)
class CollectPlan:
    """How episodes are collected.

    Attributes:
        policy: A name in `envs.policies`, `uniform` for the action space's own sampler, or `auto` for the first
            policy made for the environment (`uniform` if there is none). An adapted environment's is `random_walk`.
        seed: Of the run; with an episode's id it fixes everything random.
        env_steps: Actions in each episode; fewer where the environment ends it.
        codec: How frames are stored, one of `jepawm.data.codecs.CODECS`.
    """

    policy: str
    seed: int
    env_steps: int
    codec: str


class EnvHost:
    """Holds one environment per running episode and reuses them.

    Every public method takes and returns plain data, so that it can be an actor's method; all randomness comes from
    the seeds in the arguments.

    The first environment is made at the first call, so that what is wrong with it is that call's `EnvironmentFault`.

    Args:
        config: Which environment, at which frame size.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self._idle: list[Any] = []
        self._running: dict[int, tuple[Any, Task]] = {}

    @property
    def _bare(self) -> Any:
        if not self._idle:
            self._idle.append(make_env(self.config))
        return self._idle[0].unwrapped

    def pid(self) -> int:
        """Process id of this host."""
        return os.getpid()

    def describe(self) -> EnvDescription:
        """The environment's specifications."""
        bare = self._bare
        # That of the whole: a wrapper may have another than what it is around.
        space = self._idle[0].action_space
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
            told = (seed,) if variation is None else (seed, variation)
            start, goal = bare.sample_start_goal(*told)
            states = np.asarray(start, np.float64), np.asarray(goal, np.float64)
            tasks.append(Task(episode_id, seed, *states, variation))
        return tasks

    def sample_variations(self, seeds: Sequence[int]) -> list[dict[str, Any] | None]:
        """What varies in the tasks of these seeds; None where the environment was not told to vary anything."""
        bare = self._bare
        return [bare.sample_variation(seed) if getattr(bare, "vary", ()) else None for seed in seeds]

    def render(
        self, sim_states: Sequence[np.ndarray], variations: Sequence[dict[str, Any] | None] | None = None
    ) -> np.ndarray:
        """`[n,Y,X,C]` uint8 pictures of simulator states, each with its variation; None: as the environment is."""
        bare = self._bare
        if not getattr(bare, "factors", None):
            return np.stack([bare.render_state(state) for state in sim_states])
        # An environment that is told nothing shows the variation of the last episode it had.
        given = [None] * len(sim_states) if variations is None else variations
        pairs = zip(sim_states, given, strict=True)
        return np.stack([bare.render_state(state, variation or {}) for state, variation in pairs])

    def proprio(self, sim_states: Sequence[np.ndarray]) -> np.ndarray:
        """`[n,R]` float32 proprio of simulator states.

        Raises:
            EnvironmentFault: The environment cannot tell it.
        """
        bare = self._bare
        if not callable(getattr(bare, "proprio", None)):
            raise EnvironmentFault(
                f"env.id '{self.config.id}' lacks proprio(sim_state), which a model that reads proprio needs for its "
                "goals; what an environment must offer is in the README, under Environments"
            )
        return np.stack([np.asarray(bare.proprio(state), np.float32) for state in sim_states])

    def solved(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[bool]:
        """The goal condition of each pair of states."""
        return [bool(self._bare.success(state, goal)) for state, goal in zip(sim_states, goals, strict=True)]

    def distances(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[float]:
        """The distance between each pair of states, in the unit of `EnvDescription.distance_name`."""
        return [float(self._bare.distance(state, goal)) for state, goal in zip(sim_states, goals, strict=True)]

    def complete(self, states: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Recorded states as simulator states: those that lack velocities get an agent at rest.

        Raises:
            EnvironmentFault: A width that the environment cannot complete.
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
        """Resets one environment per task to its start."""
        observed = []
        for task in tasks:
            known = self._running.pop(task.episode_id, None)
            env = known[0] if known else (self._idle.pop() if self._idle else make_env(self.config))
            self._running[task.episode_id] = (env, task)
            options: dict[str, Any] = {"sim_state": task.start, "goal": task.goal}
            if task.variation is not None:
                options["variation"] = task.variation
            seen, info = env.reset(seed=task.seed, options=options)
            observed.append(Observed(seen["pixels"], seen["proprio"], info["sim_state"]))
        return observed

    def execute(
        self, episode_ids: Sequence[int], chunks: np.ndarray, record: Sequence[int] = (), last: int = 0
    ) -> list[Executed]:
        """Executes action chunks, open loop.

        Args:
            episode_ids: `B` running episodes.
            chunks: `[B,n,frameskip,a]` raw actions.
            record: Episodes of which every frame is returned as well.
            last: Only the frames after that many last chunks are wanted, no others are drawn; 0: after each chunk.

        Raises:
            EnvironmentFault: An episode that was never begun here.
        """
        results = []
        for episode_id, actions in zip(episode_ids, chunks, strict=True):
            if episode_id not in self._running:
                raise EnvironmentFault(f"episode {episode_id} was not begun in this host")
            env, task = self._running[episode_id]
            bare = env.unwrapped
            # An environment that can step without drawing saves the frames nobody looks at.
            advance = getattr(bare, "advance", None) if _is_unwrapped(env) else None
            first = len(actions) - (last or len(actions))
            frames, proprio, states, solved, recorded = [], [], [], [], []
            for number, chunk in enumerate(actions):
                for step, action in enumerate(chunk):
                    wanted = step == len(chunk) - 1 and number >= first
                    if wanted or episode_id in record or advance is None:
                        seen, _, _, _, info = env.step(action)
                        state = info["sim_state"]
                        if wanted:
                            frames.append(seen["pixels"])
                            proprio.append(np.asarray(seen["proprio"], np.float32))
                        if episode_id in record:
                            recorded.append(seen["pixels"])
                    else:
                        state = advance(action)
                    states.append(state)
                    solved.append(bool(bare.success(state, task.goal)))
            shown = np.stack(recorded) if recorded else None
            results.append(Executed(np.stack(frames), np.stack(proprio), np.stack(states), np.array(solved), shown))
        return results

    def finish(self) -> None:
        """Ends all running episodes; their environments wait for the next ones."""
        self._idle.extend(env for env, _ in self._running.values())
        self._running.clear()

    def collect(self, episode_ids: Sequence[int], plan: CollectPlan) -> list[EncodedEpisode]:
        """Runs a policy from random starts.

        Args:
            episode_ids: Which episodes; with the plan's seed they fix everything random.
            plan: What is played, and how it is stored.

        Returns:
            Episodes of `plan.env_steps + 1` frames, fewer where the environment ended them; encoded here, so that many
            hosts share that work. The first ones only, at least one, where all would take longer than
            `LONGEST_COLLECT_S`.
        """
        if not self._idle:
            self._idle.append(make_env(self.config))
        env, began = self._idle[0], time.monotonic()
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
        policy, act = _policy(env, plan.policy, policy_seed, reset_seed)
        seen, info = env.reset(seed=reset_seed)
        about = {"seed": plan.seed, "policy": policy}
        if info.get("variation"):
            about["variation"] = info["variation"]
        frames, proprio, states, actions = [seen["pixels"]], [seen["proprio"]], [info["sim_state"]], []
        for _ in range(plan.env_steps):
            action = np.asarray(act(info["sim_state"]), dtype=np.float32)
            seen, _, terminated, truncated, info = env.step(action)
            actions.append(action)
            frames.append(seen["pixels"])
            proprio.append(seen["proprio"])
            states.append(info["sim_state"])
            if terminated or truncated:
                # A shorter episode, as it happened: to choose among them would change what the data says.
                break
        return Episode(
            episode_id=episode_id,
            pixels=np.stack(frames),
            actions=np.stack(actions),
            proprio=np.stack(proprio).astype(np.float32),
            sim_state=np.stack(states).astype(np.float64),
            info=about,
        )

    def close(self) -> None:
        """Closes every environment."""
        self.finish()
        while self._idle:
            self._idle.pop().close()


def _is_unwrapped(env: Any) -> bool:
    """Whether nothing is around an environment that could make another step of its own `advance`."""
    from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker

    while isinstance(env, OrderEnforcing | PassiveEnvChecker):
        env = env.env
    return env is env.unwrapped


def _policy(env: Any, name: str, seed: int, reset_seed: int) -> tuple[str, Any]:
    """The policy of this name, ready for one episode: what it is called, and its `act(sim_state)`.

    Raises:
        EnvironmentFault: No such policy, or one that was made for another environment.
    """
    walk = getattr(env.unwrapped, "random_walk", None)
    known = _policies_of(env) if walk is None else ["random_walk"]
    if name == "auto":
        name = known[0] if known else "uniform"
    if name == "random_walk" and walk is not None:
        # Of the episode's own seed: only then are its states ones that can be come back to.
        return name, walk(reset_seed).act
    if name == "uniform":
        env.action_space.seed(seed)
        return name, lambda _sim_state: env.action_space.sample()
    from envs.policies import make_policy

    try:
        policy = make_policy(name, env.unwrapped)
    except ValueError as error:
        raise EnvironmentFault(f"data.policy: {error}") from error
    if name not in known:
        raise EnvironmentFault(
            f"data.policy '{name}' was made for {policy.env_id}, not for this environment; pass --data.policy "
            f"{' or '.join([*known, 'uniform'])}"
        )
    policy.reset(seed)
    return name, policy.act


def _policies_of(env: Any) -> list[str]:
    """Names of the policies that were made for an environment of this class, the usual one first."""
    import envs
    from envs.policies import POLICIES, policy_class

    mine = f"{type(env.unwrapped).__module__}:{type(env.unwrapped).__qualname__}"
    if mine not in envs.ENTRY_POINTS.values():
        return []
    return [name for name in POLICIES if envs.ENTRY_POINTS[policy_class(name).env_id] == mine]
