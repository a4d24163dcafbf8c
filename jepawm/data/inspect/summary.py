"""`jepawm data stats`: a dataset in numbers and in one picture."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.episodes import EpisodeDataset
from jepawm.data.statistics import RunningMoments
from jepawm.errors import DataError

# A number that changes by less than this part of its standard deviation in one step stands still.
STILL_PART_OF_STD = 1e-3
BINS = 61


@dataclass(frozen=True)
class Dimension:
    """One number of an action or proprio vector, raw units, over all episodes.

    Attributes:
        name: From the spec, else its index.
        mean: Mean.
        std: Standard deviation of the population; 0 for a number that never changes.
        min: Smallest value.
        max: Largest value.
    """

    name: str
    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class DatasetSummary:
    """A dataset in numbers.

    Attributes:
        path: The dataset folder.
        name: Its name.
        source: Origin, as `meta.json` says.
        episodes: Number of episodes.
        frames: Number of frames.
        hours: Recorded time, a step being `1 / control_hz`.
        control_hz: Environment steps per second.
        pixels: `[Y, X, C]`.
        codec: How frames are stored.
        disk_bytes: Size of the folder.
        shards: Number of shard files.
        length: Frames per episode: `min`, `p05`, `median`, `mean`, `p95`, `max`.
        actions: Each action dimension.
        action_units: Unit of the raw actions, as the spec says.
        proprio: Each proprio dimension.
        sim_state_dim: Width of the simulator truth, None where there is none.
        still_proprio: Share of steps in which no proprio number moves by more than a thousandth of its standard
            deviation; None where none of them ever does.
        still_pixels: Share of steps after which the stored frame is the same, byte for byte.
    """

    path: str
    name: str
    source: dict[str, Any]
    episodes: int
    frames: int
    hours: float
    control_hz: float
    pixels: tuple[int, int, int]
    codec: str
    disk_bytes: int
    shards: int
    length: dict[str, float]
    actions: tuple[Dimension, ...]
    action_units: str
    proprio: tuple[Dimension, ...]
    sim_state_dim: int | None
    still_proprio: float | None
    still_pixels: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


class _Range:
    """Moments and extremes of `dim` numbers."""

    def __init__(self, dim: int) -> None:
        self.moments = RunningMoments(dim)
        self.low, self.high = np.full(dim, np.inf), np.full(dim, -np.inf)

    def update(self, values: np.ndarray) -> None:
        self.moments.update(values)
        values = values.reshape(-1, len(self.low))
        if len(values):
            self.low = np.minimum(self.low, values.min(axis=0))
            self.high = np.maximum(self.high, values.max(axis=0))

    def dimensions(self, names: Sequence[str]) -> tuple[Dimension, ...]:
        mean, std = self.moments.mean_std()
        names = names or [str(i) for i in range(len(mean))]
        rows = zip(names, mean, std, self.low, self.high, strict=True)
        return tuple(Dimension(name, *(float(number) for number in numbers)) for name, *numbers in rows)


def summarise(path: str | os.PathLike[str]) -> DatasetSummary:
    """Reads a dataset once (twice its small columns) without decoding a frame.

    Args:
        path: The dataset folder.

    Raises:
        DataError: Not a finished dataset, or a value that is NaN or infinite (names file and row).
    """
    dataset = EpisodeDataset(path)
    spec = dataset.spec
    ranges = {"actions": _Range(spec.action.dim), "proprio": _Range(spec.proprio.dim)}
    same_pixels, before = 0, (-1, b"")
    for shard, chunk in dataset.iter_chunks(["frames", "actions", "proprio"]):
        for name, running in ranges.items():
            values = getattr(chunk, name)
            if not np.isfinite(values).all():
                raise DataError(
                    f"{shard.path}: row {chunk.row} (episode {chunk.episode_id}): '{name}' holds NaN or infinity"
                )
            running.update(values)
        assert chunk.frames is not None
        for frame in chunk.frames:
            now = (chunk.episode_id, bytes(frame))
            same_pixels += now == before
            before = now
    lengths = dataset.num_frames_each
    steps = int((lengths - 1).sum())
    quantiles = dict(zip(("p05", "median", "p95"), np.percentile(lengths, (5, 50, 95)).tolist(), strict=True))
    proprio = ranges["proprio"].dimensions(spec.proprio.names)
    return DatasetSummary(
        path=str(dataset.path),
        name=spec.name,
        source=spec.source,
        episodes=len(dataset),
        frames=int(lengths.sum()),
        hours=steps * spec.env_steps_per_frame / spec.control_hz / 3600,
        control_hz=spec.control_hz,
        pixels=spec.pixels.shape,
        codec=spec.pixels.codec,
        disk_bytes=sum(file.stat().st_size for file in dataset.path.rglob("*") if file.is_file()),
        shards=dataset.num_shards,
        length={"min": float(lengths.min()), **quantiles, "mean": float(lengths.mean()), "max": float(lengths.max())},
        actions=ranges["actions"].dimensions(spec.action.names),
        action_units=spec.action.units,
        proprio=proprio,
        sim_state_dim=None if spec.sim_state is None else spec.sim_state.dim,
        still_proprio=_still(dataset, np.array([item.std for item in proprio]), steps),
        still_pixels=same_pixels / steps,
    )


def _still(dataset: EpisodeDataset, std: np.ndarray, steps: int) -> float | None:
    """Share of steps in which proprio stands still, see `DatasetSummary.still_proprio`."""
    moving = std > 0
    if not moving.any():
        return None
    still, last, episode_id = 0, np.zeros((0, len(std))), -1
    for _, chunk in dataset.iter_chunks(["proprio"]):
        assert chunk.proprio is not None
        values = chunk.proprio.astype(np.float64)
        if chunk.episode_id == episode_id:
            values = np.concatenate([last, values])
        still += int((np.abs(np.diff(values, axis=0))[:, moving] <= STILL_PART_OF_STD * std[moving]).all(axis=1).sum())
        last, episode_id = values[-1:], chunk.episode_id
    return still / steps


def plot_summary(summary: DatasetSummary, output_png: str | os.PathLike[str]) -> Path:
    """Draws a histogram of the episodes' lengths and one of each action dimension.

    Args:
        summary: What `summarise` gave.
        output_png: The picture to write.

    Returns:
        The path of the picture.

    Raises:
        DataError: The dataset has changed since, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dataset = EpisodeDataset(summary.path)
    # A number that never changes still gets a bin.
    wide = [
        (item.min, item.max) if item.max > item.min else (item.min - 0.5, item.max + 0.5) for item in summary.actions
    ]
    edges = [np.linspace(low, high, BINS + 1) for low, high in wide]
    counts = np.zeros((len(edges), BINS), dtype=np.int64)
    for _, chunk in dataset.iter_chunks(["actions"]):
        assert chunk.actions is not None
        for i in range(len(edges)):
            counts[i] += np.histogram(chunk.actions[:, i].astype(np.float64), edges[i])[0]
    columns = min(4, len(edges) + 1)
    rows = -(-(len(edges) + 1) // columns)
    figure = Figure(figsize=(3.4 * columns, 0.5 + 2.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    axes[0].hist(dataset.num_frames_each, bins=min(BINS, len(dataset)), color="0.45")
    axes[0].set_title("frames per episode", fontsize=9)
    for axis, item, edge, count in zip(axes[1:], summary.actions, edges, counts, strict=False):
        axis.stairs(count, edge, fill=True, color="tab:blue")
        axis.axvline(item.mean, color="tab:red", linewidth=1)
        axis.set_title(f"action {item.name}: {item.mean:.3g} ± {item.std:.3g}", fontsize=9)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.set_yticks([])
    for axis in axes[len(edges) + 1 :]:
        axis.set_axis_off()
    units = f", actions in {summary.action_units}" if summary.action_units else ""
    figure.suptitle(f"{summary.name}: {summary.episodes} episodes, {summary.frames} frames{units}", fontsize=10)
    output = Path(output_png)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        raise DataError(f"{output}: the picture cannot be written: {error}") from error
    return output
