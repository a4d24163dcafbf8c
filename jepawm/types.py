"""The nouns that rooms hand to each other. NumPy only, so that data workers never import torch."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from jepawm.errors import ConfigError


@dataclass(frozen=True)
class LatentSpec:
    """Shapes of the latents and action chunks that a predictor reads.

    Attributes:
        grid: Rows and columns of patches.
        dim: Width `D` of a visual token.
        chunk_dim: Width `A` of an action chunk.
        proprio: How proprio enters: not at all, as features of each patch, or as a token of its own.
        proprio_dim: Width `E` of the proprio latent; 0 with `none`.
    """

    grid: tuple[int, int]
    dim: int
    chunk_dim: int
    proprio: Literal["none", "feature", "token"] = "none"
    proprio_dim: int = 0

    @property
    def num_patches(self) -> int:
        """Visual tokens `P` of a frame."""
        return self.grid[0] * self.grid[1]

    @property
    def num_proprio_tokens(self) -> int:
        """Proprio tokens `Q` of a frame; 0: none."""
        return {"none": 0, "token": 1, "feature": self.num_patches}[self.proprio]


@dataclass(frozen=True)
class ActionSpec:
    """What one environment step's action is.

    Attributes:
        dim: Number of raw action dimensions `a`.
        low: Lower bound of each dimension, raw units; `-inf` where there is none.
        high: Upper bound of each dimension; equal to `low` where the action is fixed.
        max_norm: Largest Euclidean norm of one action, or None. A bound for planners and policies; the environment
            itself need not enforce it.
        names: One name a dimension.
        units: Unit of the raw numbers, e.g. `"2 px"`.
    """

    dim: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_norm: float | None = None
    names: tuple[str, ...] = ()
    units: str = ""

    def __post_init__(self) -> None:
        if len(self.low) != self.dim or len(self.high) != self.dim:
            raise ConfigError(
                f"ActionSpec: low and high need {self.dim} numbers each, found {len(self.low)} and {len(self.high)}"
            )
        if any(not lo <= hi for lo, hi in zip(self.low, self.high, strict=True)):
            raise ConfigError(
                f"ActionSpec: low must not lie above high in any dimension, found {self.low}, {self.high}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON (infinite bounds become None)."""
        data = asdict(self)
        for key in ("low", "high"):
            data[key] = [float(value) if np.isfinite(value) else None for value in data[key]]
        data["names"] = list(self.names)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ActionSpec":
        """Inverse of `to_dict`."""
        low = tuple(-np.inf if value is None else float(value) for value in data["low"])
        high = tuple(np.inf if value is None else float(value) for value in data["high"])
        return cls(
            dim=int(data["dim"]),
            low=low,
            high=high,
            max_norm=data.get("max_norm"),
            names=tuple(data.get("names", ())),
            units=data.get("units", ""),
        )


@dataclass(frozen=True)
class VectorSpec:
    """What a proprio or sim_state vector holds: its width and a name for each number."""

    dim: int
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {"dim": self.dim, "names": list(self.names)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VectorSpec":
        """Inverse of `to_dict`."""
        return cls(dim=int(data["dim"]), names=tuple(data.get("names", ())))


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation per raw dimension, over the training data.

    Attributes:
        action_mean: `[a]` float32, raw units.
        action_std: `[a]` float32, above zero.
        proprio_mean: `[R]` float32.
        proprio_std: `[R]` float32, above zero.
    """

    action_mean: np.ndarray
    action_std: np.ndarray
    proprio_mean: np.ndarray
    proprio_std: np.ndarray

    def to_dict(self) -> dict[str, list[float]]:
        """Plain types, for JSON."""
        return {key: [float(x) for x in getattr(self, key)] for key in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: dict[str, list[float]]) -> "Statistics":
        """Inverse of `to_dict`."""
        return cls(**{key: np.asarray(data[key], dtype=np.float32) for key in cls.__dataclass_fields__})


@dataclass
class Episode:
    """One recorded trajectory of `F` frames and the `F - 1` actions between them.

    Where only every `k`-th environment step's frame was kept, `k` actions lead from one frame to the next.

    Attributes:
        episode_id: Unique in its dataset; with the run seed it fixes everything random about the episode.
        pixels: `[F,Y,X,C]` uint8.
        actions: `[(F-1)*k,a]` float32, one row an environment step; with `k = 1`, `actions[t]` leads from frame `t` to
            frame `t + 1`.
        proprio: `[F,R]` float32.
        sim_state: `[F,S]` float64 or None; simulator truth for resets and metrics, never a model input.
        info: Small JSON-able facts (seed, source file, ...).
    """

    episode_id: int
    pixels: np.ndarray
    actions: np.ndarray
    proprio: np.ndarray
    sim_state: np.ndarray | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Number of frames `F`."""
        return len(self.pixels)


@dataclass
class WindowBatch:
    """`B` windows of `T` frames, `frameskip` environment steps apart, and the action chunks between them.

    Attributes:
        pixels: `[B,T,Y,X,C]` uint8, channels last as stored; `WorldModel.encode` takes `[B,T,C,Y,X]`, which is a view.
            `[B,T,0,0,C]`, empty, where `features` stand for the frames.
        actions: `[B,T-1,A]` float32, raw units, `A = frameskip * a`; chunk `k` leads from frame `k` to frame `k + 1`.
        proprio: `[B,T,R]` float32, raw units.
        sim_state: `[B,T,S]` float64, or None where the dataset has none.
        episode_ids: `[B]` int64.
        starts: `[B]` int64, index of the first frame in its episode.
        features: `[B,T,P,D]` float32 features of the frames from a feature store, or None.
    """

    pixels: np.ndarray
    actions: np.ndarray
    proprio: np.ndarray
    sim_state: np.ndarray | None
    episode_ids: np.ndarray
    starts: np.ndarray
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def inputs(self) -> np.ndarray:
        """What `WorldModel.encode` takes: the frames as `[B,T,C,Y,X]`, a view, or the features in their place."""
        return np.moveaxis(self.pixels, -1, 2) if self.features is None else self.features

    def __getitem__(self, rows: slice | np.ndarray) -> "WindowBatch":
        """Some of the windows."""
        chosen: dict[str, Any] = {name: None if part is None else part[rows] for name, part in vars(self).items()}
        return WindowBatch(**chosen)


@dataclass(frozen=True)
class Observations:
    """What `B` agents see at `T` moments, a model step apart.

    Attributes:
        pixels: `[B,T,Y,X,C]` uint8 frames.
        proprio: `[B,T,R]` float32 proprio in raw units; None where there is none.
    """

    pixels: np.ndarray
    proprio: np.ndarray | None = None


@dataclass(frozen=True)
class ClipGroup:
    """Clips of one batch that have as many frames as each other; this worker's share of them.

    Attributes:
        index: Place of the frame count among those of the sources, in the order in which the sources name them; a
            count keeps its place whatever the batch holds. It chooses the mask token.
        num_clips: Clips of the group in the GLOBAL batch.
        rows: This worker's share of them. Of a batch with several groups it may be empty.
        pixels: `[B,T,C,Y,X]` uint8 of the share, augmented and at the size of the stage.
        slots: `[B]` int64, place of each clip in the global batch; (seed, train step, slot) fix a clip.
    """

    index: int
    num_clips: int
    rows: slice
    pixels: np.ndarray
    slots: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def num_frames(self) -> int:
        """Frames `T` of each clip."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True)
class ClipBatch:
    """One worker's share of the clips of a train step.

    Attributes:
        train_step: The train step.
        groups: By `ClipGroup.index`, ascending; only those that the global batch holds, the same on every worker.
    """

    train_step: int
    groups: tuple[ClipGroup, ...]

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)
