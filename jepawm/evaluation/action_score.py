"""Judging a model on recordings alone: are its plans what the recorded robot did? No environment is needed.

From the first frame of a recorded clip a plan is made towards its last frame, open loop. Planned and recorded actions
are summed over the clip, and compared: the way does not matter, only where it leads. The protocol is made for actions
that are changes of a pose, [x, y, z (m), three angles (rad), gripper closure], as DROID's are.

Reference: Terver et al., arXiv 2512.24497 (DROID, Action Score); its planner is `PUBLISHED_PLANNER`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import CEMConfig, ObjectiveConfig, PlannerConfig, RandomPlansConfig
from jepawm.data import EpisodeDataset, ShardReader
from jepawm.errors import ConfigError, DataError
from jepawm.seeding import plan_generator
from jepawm.types import Observations, WindowBatch
from jepawm.world_model import WorldModel

PARTS = {"xyz": slice(0, 3), "orientation": slice(3, 6), "closure": slice(6, 7)}
NUM_ACTIONS = 7
# As published: no planned action moves further in one env_step.
LARGEST_ACTION = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.75)
NUM_CLIPS = 64
# Deviations of the search are in units of the data's; DROID actions are published without normalisation, so 0.1 m.
PUBLISHED_PLANNER = CEMConfig(
    horizon=3,
    num_samples=300,
    num_elites=10,
    num_iterations=15,
    init_std=0.1,
    min_std=0.0,
    hold_actions=False,
)
PUBLISHED_OBJECTIVE = ObjectiveConfig(proprio_weight=0.0)


def score_of(error_xyz_m: float) -> float:
    """The published scale: 80 where the plan leads exactly there, 0 from 0.1 m on.

    Reference: Terver et al., arXiv 2512.24497.
    """
    return max(0.0, 800.0 * (0.1 - error_xyz_m))


@dataclass(frozen=True)
class ClipOutcome:
    """One clip.

    Attributes:
        episode_id: Of the dataset.
        start: Its first frame in the episode.
        planned: `[7]` sum of the planned actions.
        recorded: `[7]` sum of the recorded ones.
    """

    episode_id: int
    start: int
    planned: list[float]
    recorded: list[float]


@dataclass(frozen=True)
class Errors:
    """How far summed actions are from the recorded ones, on average over the clips.

    Attributes:
        score: Action Score, 0 to 80.
        xyz: Sum of the absolute differences of x, y and z, m.
        xyz_standard_error: Of that mean over the clips.
        orientation: Of the three angles, rad.
        closure: Of the gripper.
        per_dimension: `[7]` mean absolute difference of each number.
        cosine: Between the planned and the recorded way in x, y, z; over the clips in which both move.
    """

    score: float
    xyz: float
    xyz_standard_error: float
    orientation: float
    closure: float
    per_dimension: list[float]
    cosine: float | None


@dataclass(frozen=True)
class ActionScore:
    """What the protocol found, beside what it takes to beat.

    Attributes:
        plans: Errors of the model's plans.
        random: Errors of one random plan a clip, from the same search space.
        still: Errors of doing nothing.
        num_clips: Clips judged.
        horizon: Chunks in a plan, and between a clip's first and last frame.
        seed: Of the choice of clips and the planner's noise.
        clips: One outcome a clip.
    """

    plans: Errors
    random: Errors
    still: Errors
    num_clips: int
    horizon: int
    seed: int
    clips: tuple[ClipOutcome, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def choose_clips(
    dataset: EpisodeDataset, episode_ids: Sequence[int], *, span: int, num_clips: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws clips: an episode, then where in it; each from (seed, its number) alone.

    Args:
        dataset: The recordings.
        episode_ids: Which of them may be used.
        span: Recorded frames from a clip's first frame to its last one; a clip holds one frame more.
        num_clips: Clips wanted.
        seed: Of the draw.

    Returns:
        `[num_clips]` episode ids, and `[num_clips]` first frames.

    Raises:
        DataError: No episode is long enough.
    """
    lengths = {int(episode_id): dataset.num_frames(int(episode_id)) for episode_id in episode_ids}
    usable = sorted(episode_id for episode_id, frames in lengths.items() if frames > span)
    if not usable:
        raise DataError(
            f"{dataset.path}: a clip needs {span + 1} frames, the longest of {len(lengths)} episodes has "
            f"{max(lengths.values(), default=0)}; lower planner.horizon"
        )
    ids, starts = [], []
    for number in range(num_clips):
        random = np.random.default_rng([seed, number])
        ids.append(usable[int(random.integers(len(usable)))])
        starts.append(int(random.integers(lengths[ids[-1]] - span)))
    return np.array(ids, np.int64), np.array(starts, np.int64)


def action_score(
    model: WorldModel,
    spec: ModelSpec,
    dataset: EpisodeDataset,
    episode_ids: Sequence[int],
    *,
    planner: PlannerConfig = PUBLISHED_PLANNER,
    objective: ObjectiveConfig = PUBLISHED_OBJECTIVE,
    num_clips: int = NUM_CLIPS,
    seed: int = 1,
    largest_action: Sequence[float] = LARGEST_ACTION,
    clips_per_batch: int = 16,
    on_progress: Callable[[int], None] | None = None,
) -> ActionScore:
    """Compares a model's plans with recorded actions.

    Args:
        model: A trained world model.
        spec: Its statistics and action specification.
        dataset: Recordings whose actions are changes of a pose `[7]`.
        episode_ids: Episodes to take clips from: some that the model was not trained on.
        planner: The search; its horizon is the length of the clips in chunks.
        objective: The cost of a candidate.
        num_clips: Clips.
        seed: Of the choice of clips and the planner's noise.
        largest_action: `[7]` largest size of each number of a planned action.
        clips_per_batch: Clips planned at once; the result does not depend on it.
        on_progress: Called with the number of clips done.

    Returns:
        Errors of the model, of random plans, and of doing nothing.

    Raises:
        ConfigError: A model or bounds for other actions, or pictures of another size.
        DataError: Recordings of other actions, none that is long enough, or a frameskip at which no frames were kept.
    """
    _check(model, spec, dataset, largest_action)
    bounds = np.asarray(largest_action, np.float64)
    # Where the model's own bounds are narrower they hold.
    action = replace(
        spec.action,
        low=tuple(np.maximum(spec.action.low, -bounds).tolist()),
        high=tuple(np.minimum(spec.action.high, bounds).tolist()),
    )
    bounded = replace(spec, action=action)
    agents = {
        "plans": Agent(model, bounded, planner, objective),
        "random": Agent(model, bounded, RandomPlansConfig.beside(planner), objective),
    }
    span = planner.horizon * dataset.spec.frames_per_chunk(model.frameskip)
    ids, starts = choose_clips(dataset, episode_ids, span=span, num_clips=num_clips, seed=seed)
    reader = ShardReader(dataset, frameskip=model.frameskip, num_frames_in_window=planner.horizon + 1)
    sums: dict[str, list[np.ndarray]] = {"plans": [], "random": [], "recorded": []}
    for at in range(0, num_clips, clips_per_batch):
        part = slice(at, at + clips_per_batch)
        batch = reader.read(ids[part], starts[part])
        sums["recorded"].append(_summed(torch.from_numpy(batch.actions)))
        for name, agent in agents.items():
            agent.reset(_frame(batch, 0), _frame(batch, -1))
            noise = [plan_generator(seed, number, device=agent.device) for number in range(at, at + len(batch))]
            sums[name].append(_summed(agent.act(noise)))
        if on_progress is not None:
            on_progress(at + len(batch))
    planned, guessed, recorded = (np.concatenate(sums[name]) for name in ("plans", "random", "recorded"))
    rows = zip(ids, starts, planned, recorded, strict=True)
    return ActionScore(
        plans=errors_of(planned, recorded),
        random=errors_of(guessed, recorded),
        still=errors_of(np.zeros_like(recorded), recorded),
        num_clips=num_clips,
        horizon=planner.horizon,
        seed=seed,
        clips=tuple(ClipOutcome(int(i), int(s), one.tolist(), other.tolist()) for i, s, one, other in rows),
    )


def write_recording(dataset: EpisodeDataset, episode_ids: Sequence[int], path: str | os.PathLike[str]) -> None:
    """Writes episodes as the recording that the environment `envs/DROID-v1` replays.

    Args:
        dataset: Recordings whose actions are changes of a pose `[7]`, with the pose as proprio `[7]`.
        episode_ids: Which of them; each becomes a clip.
        path: The `.npz` to write.

    Raises:
        DataError: Recordings of other actions or proprio, or without the frames between some env_steps.
    """
    if dataset.spec.env_steps_per_frame != 1:
        raise DataError(
            f"{dataset.path}: a recording needs a frame after every env_step, the dataset holds one every "
            f"{dataset.spec.env_steps_per_frame}; convert or collect it with data.env_steps_per_frame 1"
        )
    for name, width in (("actions", dataset.spec.action.dim), ("proprio", dataset.spec.proprio.dim)):
        if width != NUM_ACTIONS:
            raise DataError(f"{dataset.path}: a recording needs {NUM_ACTIONS} numbers of {name}, found {width}")
    episodes = [dataset.read_episode(int(episode_id)) for episode_id in episode_ids]
    still = np.zeros((1, NUM_ACTIONS), np.float32)
    columns = {
        "frames": np.concatenate([episode.pixels for episode in episodes]),
        "states": np.concatenate([episode.proprio for episode in episodes]),
        # A row a frame: nothing leads on from the last one.
        "actions": np.concatenate([part for episode in episodes for part in (episode.actions, still)]),
        "lengths": np.array([episode.num_frames for episode in episodes], np.int64),
        "control_hz": np.float64(dataset.spec.control_hz),
    }
    with open(path, "wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]


def errors_of(planned: np.ndarray, recorded: np.ndarray) -> Errors:
    """Errors of summed actions.

    Args:
        planned: `[K,7]` sums over each clip.
        recorded: `[K,7]`.
    """
    apart = np.abs(planned - recorded)
    parts = {name: apart[:, where].sum(axis=1) for name, where in PARTS.items()}
    ways = planned[:, PARTS["xyz"]], recorded[:, PARTS["xyz"]]
    lengths = np.linalg.norm(ways[0], axis=1) * np.linalg.norm(ways[1], axis=1)
    moving = lengths > 1e-12
    cosines = (ways[0] * ways[1]).sum(axis=1)[moving] / lengths[moving]
    xyz = float(parts["xyz"].mean())
    spread = float(parts["xyz"].std(ddof=1)) if len(apart) > 1 else float("nan")
    return Errors(
        score=score_of(xyz),
        xyz=xyz,
        xyz_standard_error=spread / float(np.sqrt(len(apart))),
        orientation=float(parts["orientation"].mean()),
        closure=float(parts["closure"].mean()),
        per_dimension=apart.mean(axis=0).tolist(),
        cosine=float(cosines.mean()) if len(cosines) else None,
    )


def _frame(batch: WindowBatch, number: int) -> Observations:
    """One frame of each clip."""
    return Observations(batch.pixels[:, number][:, None], batch.proprio[:, number][:, None])


def _summed(chunks: Tensor) -> np.ndarray:
    """`[B,7]` float64 sum over all env_steps of chunks `[B,H,A]`."""
    return np.asarray(chunks.cpu().double().unflatten(-1, (-1, NUM_ACTIONS)).sum(dim=(1, 2)))


def _check(model: WorldModel, spec: ModelSpec, dataset: EpisodeDataset, largest_action: Sequence[float]) -> None:
    expected = f"the Action Score is about changes of a pose, {NUM_ACTIONS} numbers (x, y, z, three angles, gripper)"
    if spec.action.dim != NUM_ACTIONS:
        raise ConfigError(f"{expected}; the model's actions have {spec.action.dim}")
    if dataset.spec.action.dim != NUM_ACTIONS:
        raise DataError(f"{dataset.path}: {expected}; its actions have {dataset.spec.action.dim}")
    if len(largest_action) != NUM_ACTIONS or not all(value > 0 for value in largest_action):
        raise ConfigError(f"largest_action: expected {NUM_ACTIONS} numbers above 0, found {list(largest_action)}")
    height, width, _ = dataset.spec.pixels.shape
    if (height, width) != (model.image_size, model.image_size):
        raise ConfigError(
            f"{dataset.path} holds frames of {height}x{width} px, the model sees {model.image_size}; convert it with "
            f"--image-size {model.image_size}"
        )
    if model.uses_proprio and dataset.spec.proprio.dim != len(spec.statistics.proprio_mean):
        raise DataError(
            f"{dataset.path}: proprio has {dataset.spec.proprio.dim} numbers, the model reads "
            f"{len(spec.statistics.proprio_mean)}"
        )
