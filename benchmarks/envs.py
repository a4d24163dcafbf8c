"""Speed of the environments: env_steps per second, with and without pictures, in one process on one thread.

    python benchmarks/envs.py [--output benchmarks/results/envs.json] [--seconds 2]

Actions come from the collection policies, so Push-T is measured while it pushes. `step_only` is `advance()`,
`step_and_render` is `step()`, which makes the whole observation. `raw_...` is the simulator under it, driven without us
(`raw_simulators.py`) at the same picture size and quality; `of_raw` is ours over it. Each figure is a median over at
least three turns, in which all that is compared has its run.
"""

import os

# Before NumPy is imported: afterwards its thread pools have their size.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Mesa's software renderer draws in the thread that asks, as in an environment actor.
os.environ.setdefault("LP_NUM_THREADS", "0")

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import gymnasium
import numpy as np
from raw_simulators import RAW

# The repository instead of this folder, where `envs` would be this file.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from envs.policies import make_policy
from envs.wall_drawing import render_positions
from envs.wall_physics import step_positions
from jepawm.evaluation.manifest import manifest

IMAGE_SIZES_PX = (64, 224)
EPISODE_ENV_STEPS = 100
REPEATS = 3
BATCH = 64


@dataclass(frozen=True)
class Case:
    """What is played: an environment, its policy, and how much of it makes a run of some tenths of a second."""

    env_id: str
    policy: str
    episodes: int = 5
    env_steps: int = EPISODE_ENV_STEPS
    qualities: tuple[str, ...] = ()
    image_sizes: tuple[int, ...] = (224,)


BOTH = ("fast", "faithful")
CASES = (
    Case("envs/Wall-v1", "wall_mixed_walk", image_sizes=IMAGE_SIZES_PX),
    Case("envs/PushT-v1", "pusht_noisy_push", image_sizes=IMAGE_SIZES_PX),
    Case("envs/PointMaze-v1", "pointmaze_random", 1, 100, BOTH, IMAGE_SIZES_PX),
    Case("envs/Metaworld-v1", "metaworld_expert", 1, 20, BOTH),
    Case("envs/RoboSuite-v1", "robosuite_script", 1, 20, BOTH),
    Case("envs/Rope-v1", "rope_random_push", 1, 10, BOTH),
    Case("envs/Granular-v1", "granular_random_push", 1, 5, BOTH),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "envs.json")
    parser.add_argument("--seconds", type=float, default=2.0, help="least measured time for each pair of figures")
    parser.add_argument("--env", nargs="*", help="only these ids")
    arguments = parser.parse_args()

    cv2.setNumThreads(1)
    figures = {}
    for case in CASES:
        if arguments.env and case.env_id not in arguments.env:
            continue
        for image_size in case.image_sizes:
            for quality in case.qualities or ("",):
                name = f"{case.env_id} {image_size} px {quality}".rstrip()
                figures[name] = measure_env(case, image_size, quality, arguments.seconds)
                print(name, "  ".join(f"{key} {value:,}" for key, value in figures[name].items()), flush=True)
    for image_size in IMAGE_SIZES_PX:
        figures[f"wall batch of {BATCH} {image_size} px"] = measure_wall_batch(image_size, arguments.seconds)

    results = {
        **manifest(command="python benchmarks/envs.py"),
        "what": "env_steps per second, one process, one thread; of_raw = step_and_render over raw_step_and_render",
        "load_average_1min": round(os.getloadavg()[0], 2),
        "threads": {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "cv2": cv2.getNumThreads()},
        "figures": figures,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure_env(case: Case, image_size: int, quality: str, seconds: float) -> dict[str, float]:
    """Replays one recorded list of episodes with and without pictures, and in the simulator by itself."""
    kwargs = {"quality": quality} if quality else {}
    env = gymnasium.make(case.env_id, image_size=image_size, disable_env_checker=True, **kwargs).unwrapped
    episodes = []
    for seed in range(case.episodes):
        policy = make_policy(case.policy, env)
        _, info = env.reset(seed=seed)
        policy.reset(seed)
        start, state, actions = info["sim_state"], info["sim_state"], []
        for _ in range(case.env_steps):
            actions.append(policy.act(state))
            state = env.advance(actions[-1])
        episodes.append((start, actions))

    def play(step: Callable[[np.ndarray], object]) -> float:
        """Seconds spent in env_steps; resets are not counted."""
        spent = 0.0
        for start, actions in episodes:
            env.reset(options={"sim_state": start})
            begin = time.perf_counter()
            for action in actions:
                step(action)
            spent += time.perf_counter() - begin
        return spent

    plays = {"step_only": lambda: play(env.advance), "step_and_render": lambda: play(env.step)}
    raw = RAW.get(case.env_id)
    if raw is not None:
        for name, render in (("raw_step_only", False), ("raw_step_and_render", True)):
            plays[name] = lambda render=render: sum(
                raw(start, actions, image_size, render, quality == "fast") for start, actions in episodes
            )
    times = in_turns(plays, seconds)
    num_env_steps = case.episodes * case.env_steps
    figures: dict[str, float] = {f"{name}_per_s": round(num_env_steps / spent, 1) for name, spent in times.items()}
    if raw is not None:
        figures["of_raw"] = round(times["raw_step_and_render"] / times["step_and_render"], 2)
    env.close()
    return figures


def measure_wall_batch(image_size: int, seconds: float) -> dict[str, float]:
    """The same work through `step_positions` and `render_positions`, many points at once."""
    policy = make_policy("wall_mixed_walk")
    actions = np.stack([policy.actions(seed, EPISODE_ENV_STEPS) for seed in range(BATCH)], axis=1)

    def play(render: bool) -> float:
        positions = np.random.default_rng(0).uniform(8.0, 25.0, (BATCH, 2))
        begin = time.perf_counter()
        for actions_N2 in actions:
            positions = step_positions(positions, actions_N2)
            if render:
                render_positions(positions, image_size)
        return time.perf_counter() - begin

    times = in_turns({"step_only": lambda: play(False), "step_and_render": lambda: play(True)}, seconds)
    return {f"{name}_per_s": round(EPISODE_ENV_STEPS * BATCH / spent) for name, spent in times.items()}


def in_turns(plays: dict[str, Callable[[], float]], seconds: float) -> dict[str, float]:
    """Median seconds of each, run in turns so that a neighbour's load hits all alike.

    At least `REPEATS` turns, until one of them has had `seconds`. The first turn, which makes renderers, is left out.
    """
    times: dict[str, list[float]] = {name: [] for name in plays}
    for play in plays.values():
        play()
    while min(map(len, times.values())) < REPEATS or max(map(sum, times.values())) < seconds:
        for name, play in plays.items():
            times[name].append(play())
    return {name: statistics.median(spent) for name, spent in times.items()}


if __name__ == "__main__":
    main()
