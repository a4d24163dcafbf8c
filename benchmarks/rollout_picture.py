"""A picture of two rollouts in Wall, and below each what the world model imagined for the same chunks.

    python benchmarks/rollout_picture.py --model RUN --dataset DATASET [--output docs/images/rollout.png]

The demo has no decoder. Each predicted latent is therefore shown as the training frame whose encoded latent is nearest
to it (mean squared difference). The model is asked before the first action is executed and sees the start and
the goal alone, so the lower row is a forecast of the upper one. Distances between the dot in both rows are printed.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Circle

import jepawm
from envs.wall import WallEnv
from jepawm.agent import Agent
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split
from jepawm.types import Observations

GRID_CELLS = 65
GREEN, GREY, BLUE = "#17703a", "#5b6878", "#2f5fa8"


@dataclass(frozen=True)
class EncodedFrames:
    """Frames of the training episodes with their latents.

    Attributes:
        pixels_FYXC: `[F,Y,X,C]` uint8.
        positions_F2: `[F,2]` where the dot is, cells.
        latents_FPD: `[F,P,D]`.
    """

    pixels_FYXC: np.ndarray
    positions_F2: np.ndarray
    latents_FPD: torch.Tensor

    def nearest(self, latent_PD: torch.Tensor) -> int:
        """Index of the frame whose latent has the smallest mean squared difference to a given one."""
        return int((self.latents_FPD - latent_PD).square().mean(dim=(-2, -1)).argmin())


@dataclass(frozen=True)
class PlannedRollout:
    """One plan, executed.

    Attributes:
        start_YXC: Frame before the first action.
        goal_YXC: Frame of the goal.
        executed_HYXC: Frame after each chunk.
        imagined_HYXC: Nearest training frame to each predicted latent.
        places_px_H2: Where the dot really was after each chunk, x and y.
        gap_cells_H: Distance of the dot in the two rows.
        solved: Whether the dot ended at the goal.
    """

    start_YXC: np.ndarray
    goal_YXC: np.ndarray
    executed_HYXC: np.ndarray
    imagined_HYXC: np.ndarray
    places_px_H2: np.ndarray
    gap_cells_H: np.ndarray
    solved: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a run of the demo, or its `model` folder")
    parser.add_argument("--dataset", required=True, help="the episodes the run was trained on")
    parser.add_argument("--tasks", type=int, nargs="+", default=[3, 5], help="seeds of start and goal")
    parser.add_argument("--episodes", type=int, default=400, help="training episodes whose frames may be shown")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs/images/rollout.png")
    arguments = parser.parse_args()
    agent = jepawm.load(arguments.model, device="cpu")
    known = encode_frames(agent, EpisodeDataset(arguments.dataset), arguments.episodes)
    rollouts = [plan_and_execute(agent, known, seed) for seed in arguments.tasks]
    for seed, rollout in zip(arguments.tasks, rollouts, strict=True):
        gaps = ", ".join(f"{gap:.1f}" for gap in rollout.gap_cells_H)
        print(f"task {seed}: {'solved' if rollout.solved else 'not solved'}; gap after each chunk {gaps} cells")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    draw(arguments.output, rollouts)
    print(f"{arguments.output.name}: {arguments.output.stat().st_size / 1000:.0f} kB")


def encode_frames(agent: Agent, dataset: EpisodeDataset, num_episodes: int) -> EncodedFrames:
    pixels, positions, latents = [], [], []
    run = agent.spec.run
    split = Split.of(dataset, run["data"]["held_out_fraction"], run["seed"])
    for episode_id in split.train[:num_episodes]:
        episode = dataset.read_episode(int(episode_id))
        pixels.append(episode.pixels)
        positions.append(episode.sim_state)
        latents.append(agent.encode(Observations(episode.pixels[:, None], None)).visual[:, 0].float())
    return EncodedFrames(np.concatenate(pixels), np.concatenate(positions), torch.cat(latents))


def plan_and_execute(agent: Agent, known: EncodedFrames, seed: int) -> PlannedRollout:
    size_px = known.pixels_FYXC.shape[1]
    env = WallEnv(image_size=size_px)
    start, goal = env.sample_start_goal(seed)
    observation, _ = env.reset(options={"sim_state": start, "goal": goal})
    goal_frame = env.render_state(goal)
    plan = agent.plan(observation, {"pixels": goal_frame, "proprio": env.proprio(goal)})
    executed, positions = [], []
    for action in plan.actions:
        after, _, _, _, info = env.step(action)
        executed.append(after["pixels"])
        positions.append(info["sim_state"])
    every = agent.model.frameskip
    places_H2 = np.stack(positions[every - 1 :: every])
    shown = [known.nearest(latent_PD) for latent_PD in plan.latents.visual.float()]
    return PlannedRollout(
        observation["pixels"],
        goal_frame,
        np.stack(executed[every - 1 :: every]),
        known.pixels_FYXC[shown],
        places_H2 * size_px / GRID_CELLS,
        np.linalg.norm(places_H2 - known.positions_F2[shown], axis=1),
        env.success(info["sim_state"], goal),
    )


def draw(path: Path, rollouts: list[PlannedRollout]) -> None:
    columns = len(rollouts[0].executed_HYXC) + 2
    figure = plt.figure(figsize=(1.28 * columns + 0.6, 2.75 * len(rollouts) + 0.35))
    for band, rollout in zip(figure.subfigures(len(rollouts), 1, hspace=0.0), rollouts, strict=True):
        axes = band.subplots(2, columns)
        band.subplots_adjust(left=0.03, right=0.995, top=0.9, bottom=0.02, wspace=0.05, hspace=0.06)
        draw_rollout(axes, rollout)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_rollout(axes: np.ndarray, rollout: PlannedRollout) -> None:
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_color("#c3ccd6")
    chunks = len(rollout.executed_HYXC)
    titles = ["start", *(f"chunk {number}" for number in range(1, chunks + 1)), "goal"]
    shown = [rollout.start_YXC, *rollout.executed_HYXC, rollout.goal_YXC]
    for panel, title, frame in zip(axes[0], titles, shown, strict=True):
        panel.set_title(title, fontsize=10, color=GREY)
        panel.imshow(frame, interpolation="nearest")
    for panel, frame, place_px in zip(axes[1, 1:-1], rollout.imagined_HYXC, rollout.places_px_H2, strict=True):
        panel.imshow(frame, interpolation="nearest")
        panel.add_patch(Circle(tuple(place_px), radius=5.5, fill=False, color=BLUE, linewidth=1.2))
    for panel in (axes[1, 0], axes[1, -1]):
        panel.set_axis_off()
    axes[0, 0].set_ylabel("executed", fontsize=10, color=BLUE)
    axes[1, 1].set_ylabel("imagined", fontsize=10, color=GREEN)
    note = "imagined before\nthe first action\n\nring: where the\ndot really went"
    axes[1, 0].text(0.4, 0.5, note, fontsize=8, color=GREY, ha="center", va="center", transform=axes[1, 0].transAxes)


if __name__ == "__main__":
    main()
