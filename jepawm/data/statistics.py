"""Mean and standard deviation of each raw dimension, in one pass over data that need not fit into memory.

Reference: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances", 1979 (merging the moments of two sets).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jepawm.errors import DataError
from jepawm.types import Statistics

if TYPE_CHECKING:
    from jepawm.data.episodes import DatasetSpec, EpisodeDataset

# A spread below the resolution of float32 at the mean is rounding, not motion.
_CONSTANT = float(np.finfo(np.float32).eps)
# A deviation below this share of the width between an action's bounds is noise: divided by it, a single real motion
# would become a number of thousands. Without bounds the unit itself is the width.
HARDLY_MOVING = 1e-4
HARDLY_MOVING_UNBOUNDED = 1e-6


class RunningMoments:
    """Count, mean and sum of squared deviations per dimension, float64."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self.mean = np.zeros(dim)
        self.squares = np.zeros(dim)

    def update(self, values: np.ndarray) -> None:
        """Takes in `[n,dim]` values, or rows that hold several such vectors one after the other."""
        if len(values) == 0:
            return
        # A dataset of videos has actions of width 0, whose number of rows cannot be told from their size.
        values = (values.reshape(-1, self.dim) if self.dim else values).astype(np.float64)
        mean = values.mean(axis=0)
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares += ((values - mean) ** 2).sum(axis=0) + delta**2 * self.count * len(values) / total
        self.mean += delta * len(values) / total
        self.count = total

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """`(mean, std)` of the population, float64 `[dim]`; the std of a constant dimension is exactly 0."""
        std = np.sqrt(self.squares / max(self.count, 1))
        std[std <= _CONSTANT * np.abs(self.mean)] = 0.0
        return self.mean.copy(), std


def moments_of(spec: "DatasetSpec") -> dict[str, RunningMoments]:
    """Empty moments of the columns whose statistics a dataset states: one number a raw dimension."""
    return {"actions": RunningMoments(spec.action.dim), "proprio": RunningMoments(spec.proprio.dim)}


def statistics_of(actions: RunningMoments, proprio: RunningMoments, spec: "DatasetSpec", where: str) -> Statistics:
    """Turns moments into `Statistics`.

    A dimension that never changes, or hardly, gets std 1: normalising leaves it near 0, whatever it does later.

    Args:
        actions: Moments of the raw actions.
        proprio: Moments of proprio.
        spec: Names and bounds of the dimensions.
        where: Name of the dataset in the warning.

    Warns:
        UserWarning: Names each such dimension.

    Raises:
        DataError: No values.
    """
    parts: dict[str, np.ndarray] = {}
    floors = least_deviations(spec)
    names = {"action": spec.action.names, "proprio": spec.proprio.names}
    for name, moments in (("action", actions), ("proprio", proprio)):
        if moments.count == 0:
            raise DataError(f"{where}: there are no {name} values to take statistics of")
        mean, std = moments.mean_std()
        constant = np.flatnonzero(std <= floors["actions" if name == "action" else name])
        if len(constant):
            labels = [f"{number} ({names[name][number]})" if names[name] else str(number) for number in constant]
            warnings.warn(
                f"{where}: {name} dimension(s) {', '.join(labels)} never change, or hardly (deviation "
                f"{', '.join(f'{std[number]:.2g}' for number in constant)}); their std is set to 1",
                stacklevel=3,
            )
            std[constant] = 1.0
        parts[f"{name}_mean"], parts[f"{name}_std"] = mean.astype(np.float32), std.astype(np.float32)
    return Statistics(**parts)


@dataclass(frozen=True)
class PictureStatistics:
    """What frames are normalised by, where that is taken from the data.

    Attributes:
        mean_picture: `[Y,X,C]` float32 mean of the frames, 0 to 255.
        deviation: Root mean square of the frames' differences from it, over all pixels and channels.
        num_frames: Frames it was taken of.
    """

    mean_picture: np.ndarray
    deviation: float
    num_frames: int


def picture_statistics(
    dataset: "EpisodeDataset", episode_ids: Sequence[int] | np.ndarray, *, max_episodes: int = 200
) -> PictureStatistics:
    """Mean picture of some episodes and the deviation from it; sums are exact, so any order gives the same numbers.

    Args:
        dataset: The dataset.
        episode_ids: Episodes that may be read; give the training split.
        max_episodes: Read at most this many of them, evenly spaced.

    Raises:
        DataError: No episodes, a damaged frame, or frames that are all the same.
    """
    ids = np.sort(np.asarray(episode_ids, dtype=np.int64))
    if not len(ids):
        raise DataError(f"{dataset.path}: there are no episodes to take the mean picture of")
    total = np.zeros(dataset.spec.pixels.shape, dtype=np.int64)
    squares, frames = 0, 0
    for episode_id in ids[:: -(-len(ids) // max_episodes)].tolist():
        pixels = dataset.read_episode(episode_id).pixels
        total += pixels.sum(axis=0, dtype=np.int64)
        squares += int(np.square(pixels, dtype=np.int64).sum())
        frames += len(pixels)
    mean = total / frames
    variance = squares / (frames * mean.size) - float(np.square(mean).mean())
    if not variance > 0:
        raise DataError(f"{dataset.path}: all {frames} frames are the same picture, which no model can learn from")
    return PictureStatistics(mean.astype(np.float32), float(np.sqrt(variance)), frames)


def least_deviations(spec: "DatasetSpec") -> dict[str, np.ndarray]:
    """Deviations at or below which a dimension counts as never changing, by column (`actions`, `proprio`)."""
    width = np.subtract(spec.action.high, spec.action.low)
    of_actions = np.where(np.isfinite(width) & (width > 0), HARDLY_MOVING * width, HARDLY_MOVING_UNBOUNDED)
    return {"actions": of_actions, "proprio": np.full(spec.proprio.dim, HARDLY_MOVING_UNBOUNDED)}


def compute_statistics(dataset: "EpisodeDataset", episode_ids: Sequence[int] | np.ndarray | None = None) -> Statistics:
    """Statistics over some episodes of a dataset; give the training split, so that held-out data stays
    unseen.

    Args:
        dataset: The dataset.
        episode_ids: Which episodes; all by default.

    Warns:
        UserWarning: A dimension never changes, or hardly; its std is set to 1.

    Raises:
        DataError: A value is NaN or infinite (names file and row), or there is nothing to take statistics of.
    """
    moments = moments_of(dataset.spec)
    for shard, chunk in dataset.iter_chunks(["actions", "proprio"], episode_ids):
        for name, running in moments.items():
            values = getattr(chunk, name)
            if not np.isfinite(values).all():
                raise DataError(
                    f"{shard.path}: row {chunk.row} (episode {chunk.episode_id}): '{name}' holds NaN or infinity"
                )
            running.update(values)
    return statistics_of(moments["actions"], moments["proprio"], dataset.spec, str(dataset.path))
