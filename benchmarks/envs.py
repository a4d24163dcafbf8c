"""Speed of the environments: env_steps per second, with and without pictures, in one process on one thread.

    python benchmarks/envs.py [--output benchmarks/results/envs.json] [--seconds 2]

Actions come from the collection policies, so Push-T is measured while it pushes. `step_only` is `advance()`,
`step_and_render` is `step()`, which makes the whole observation. Each figure is a median over at least five runs.
"""

import os

# Before NumPy is imported: afterwards its thread pools have their size.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import gymnasium
import numpy as np

# The repository instead of this folder, where `envs` would be this file.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from envs.policies import make_policy
from envs.wall_drawing import render_positions
from envs.wall_physics import step_positions
from jepawm.evaluation.manifest import manifest

CASES = (("envs/Wall-v1", "wall_mixed_walk"), ("envs/PushT-v1", "pusht_noisy_push"))
IMAGE_SIZES_PX = (64, 224)
EPISODE_ENV_STEPS = 100
REPEATS = 5
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "envs.json")
    parser.add_argument("--seconds", type=float, default=2.0, help="least measured time for each pair of figures")
    arguments = parser.parse_args()

    cv2.setNumThreads(1)
    figures = {}
    for env_id, policy in CASES:
        for image_size in IMAGE_SIZES_PX:
            figures[f"{env_id} {image_size} px"] = measure_env(env_id, policy, image_size, arguments.seconds)
    for image_size in IMAGE_SIZES_PX:
        figures[f"wall batch of {BATCH} {image_size} px"] = measure_wall_batch(image_size, arguments.seconds)

    results = {
        **manifest(command="python benchmarks/envs.py"),
        "what": "env_steps per second, one process, one thread; ratio = step_and_render / step_only",
        "load_average_1min": round(os.getloadavg()[0], 2),
        "threads": {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "cv2": cv2.getNumThreads()},
        "figures": figures,
    }
    for name, figure in figures.items():
        print(name, "  ".join(f"{key} {value:,}" for key, value in figure.items()))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure_env(env_id: str, policy_name: str, image_size: int, seconds: float) -> dict[str, float]:
    """Replays one recorded list of episodes both ways."""
    env = gymnasium.make(env_id, image_size=image_size).unwrapped
    policy = make_policy(policy_name)
    episodes = []
    for seed in range(5):
        _, info = env.reset(seed=seed)
        policy.reset(seed)
        start, state, actions = info["sim_state"], info["sim_state"], []
        for _ in range(EPISODE_ENV_STEPS):
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

    num_env_steps = len(episodes) * EPISODE_ENV_STEPS
    # In turns, so that a neighbour's load hits both alike.
    only, rendered = alternate(lambda: play(env.advance), lambda: play(env.step), seconds)
    return {
        "step_only_per_s": round(num_env_steps / only),
        "step_and_render_per_s": round(num_env_steps / rendered),
        "ratio": round(only / rendered, 3),
    }


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

    only, rendered = alternate(lambda: play(False), lambda: play(True), seconds)
    num_env_steps = EPISODE_ENV_STEPS * BATCH
    return {
        "step_only_per_s": round(num_env_steps / only),
        "step_and_render_per_s": round(num_env_steps / rendered),
        "ratio": round(only / rendered, 3),
    }


def alternate(first: Callable[[], float], second: Callable[[], float], seconds: float) -> tuple[float, float]:
    """Median seconds of both, run in turns: at least `REPEATS` times, and until one has had `seconds`."""
    first()
    second()
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < REPEATS or max(sum(times[0]), sum(times[1])) < seconds:
        times[0].append(first())
        times[1].append(second())
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
