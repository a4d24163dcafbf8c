"""The description of a dataset: its spec, and `meta.json`, whose keys `episodes.py` documents."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepawm.data.codecs import DEFAULT_CODEC, check_codec
from jepawm.errors import ConfigError, DataError, did_you_mean
from jepawm.types import ActionSpec, Statistics, VectorSpec

FORMAT = "jepawm-episodes"
FORMAT_VERSION = 1
META_FILE = "meta.json"
_META_TYPES: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "format_version": (int,),
    "status": (str,),
    "name": (str,),
    "control_hz": (int, float),
    "chunk_frames": (int,),
    "pixels": (dict,),
    "action": (dict,),
    "proprio": (dict,),
    "sim_state": (dict, type(None)),
    "statistics": (dict, type(None)),
    "num_episodes": (int,),
    "num_frames": (int,),
    "source": (dict,),
}
# Keys that are there only where a dataset needs them.
_OPTIONAL_META_TYPES: dict[str, tuple[type, ...]] = {"env_steps_per_frame": (int,)}


@dataclass(frozen=True)
class PixelSpec:
    """Size of every frame and how it is encoded.

    Attributes:
        height: `Y`, px.
        width: `X`, px.
        channels: `C`; 3 is RGB.
        codec: One of `codecs.CODECS`.
    """

    height: int
    width: int
    channels: int = 3
    codec: str = DEFAULT_CODEC

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels) < 1:
            raise DataError(f"pixels must be at least 1x1x1, found {self.shape}")
        check_codec(self.codec, self.channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(Y, X, C)`."""
        return (self.height, self.width, self.channels)


@dataclass(frozen=True)
class DatasetSpec:
    """Description of a dataset: its name, rate, frames and vectors.

    Attributes:
        name: A short name.
        control_hz: Environment steps per second.
        pixels: Frame size and codec.
        action: The raw action of one environment step.
        proprio: The robot's own readings.
        sim_state: Simulator truth, or None.
        source: Origin of the data, JSON-able.
        env_steps_per_frame: Environment steps between two recorded frames; above 1, the frames between were not kept.
    """

    name: str
    control_hz: float
    pixels: PixelSpec
    action: ActionSpec
    proprio: VectorSpec
    sim_state: VectorSpec | None = None
    source: dict[str, Any] = field(default_factory=dict)
    env_steps_per_frame: int = 1

    def __post_init__(self) -> None:
        if self.env_steps_per_frame < 1:
            raise DataError(f"env_steps_per_frame must be 1 or more, found {self.env_steps_per_frame}")

    @property
    def widths(self) -> dict[str, int]:
        """Width of each vector column, per recorded frame; a row of actions holds all those up to the next frame."""
        widths = {"actions": self.env_steps_per_frame * self.action.dim, "proprio": self.proprio.dim}
        if self.sim_state is not None:
            widths["sim_state"] = self.sim_state.dim
        return widths

    def to_meta(self) -> dict[str, Any]:
        """The part of `meta.json` that describes the data."""
        pixels = self.pixels
        return {
            "name": self.name,
            "control_hz": float(self.control_hz),
            "pixels": {
                "height": pixels.height,
                "width": pixels.width,
                "channels": pixels.channels,
                "codec": pixels.codec,
            },
            "action": self.action.to_dict(),
            "proprio": self.proprio.to_dict(),
            "sim_state": None if self.sim_state is None else self.sim_state.to_dict(),
            "source": dict(self.source),
            # Left out where every frame is recorded, as in all datasets from before the key.
            **({"env_steps_per_frame": self.env_steps_per_frame} if self.env_steps_per_frame > 1 else {}),
        }

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "DatasetSpec":
        """Inverse of `to_meta`, for a `meta` that `meta_problems` found no fault in."""
        return cls(
            name=meta["name"],
            control_hz=float(meta["control_hz"]),
            pixels=PixelSpec(**meta["pixels"]),
            action=ActionSpec.from_dict(meta["action"]),
            proprio=VectorSpec.from_dict(meta["proprio"]),
            sim_state=None if meta["sim_state"] is None else VectorSpec.from_dict(meta["sim_state"]),
            source=meta["source"],
            env_steps_per_frame=meta.get("env_steps_per_frame", 1),
        )

    def frames_per_chunk(self, frameskip: int) -> int:
        """Recorded frames from one frame of a window to the next.

        Args:
            frameskip: Environment steps between them.

        Raises:
            DataError: The frames in between were not recorded.
        """
        if frameskip < 1 or frameskip % self.env_steps_per_frame:
            raise DataError(
                f"dataset '{self.name}' holds a frame every {self.env_steps_per_frame} env_steps; frameskip must be a "
                f"multiple of that, found {frameskip}"
            )
        return frameskip // self.env_steps_per_frame


def meta_problems(meta: Any) -> list[str]:
    """Violations of the contract in the content of `meta.json`; empty if there are none."""
    if not isinstance(meta, dict):
        return [f"expected a JSON object, found {type(meta).__name__}"]
    problems = []
    known = {**_META_TYPES, **_OPTIONAL_META_TYPES}
    for key, kinds in known.items():
        if key not in meta:
            if key in _META_TYPES:
                problems.append(f"key '{key}' is missing")
        elif not isinstance(meta[key], kinds) or (isinstance(meta[key], bool)):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            problems.append(f"key '{key}' is {meta[key]!r}, expected {expected}")
    problems += [f"unknown key '{key}'{did_you_mean(key, known)}" for key in meta if key not in known]
    if problems:
        return problems
    if meta["format"] != FORMAT:
        problems.append(f"key 'format' is {meta['format']!r}, expected {FORMAT!r}")
    if meta["format_version"] < 1:
        problems.append(f"key 'format_version' is {meta['format_version']}, expected {FORMAT_VERSION}")
    if meta["status"] not in ("writing", "complete"):
        problems.append(f"key 'status' is {meta['status']!r}, expected 'writing' or 'complete'")
    if not meta["control_hz"] > 0:
        problems.append(f"key 'control_hz' is {meta['control_hz']}, expected a number above 0")
    if meta.get("env_steps_per_frame", 1) < 1:
        problems.append(f"key 'env_steps_per_frame' is {meta['env_steps_per_frame']}, expected 1 or more")
    if meta["chunk_frames"] < 1:
        problems.append(f"key 'chunk_frames' is {meta['chunk_frames']}, expected 1 or more")
    readers: dict[str, Callable[[Any], Any]] = {
        "pixels": lambda value: PixelSpec(**value),
        "action": ActionSpec.from_dict,
        "proprio": VectorSpec.from_dict,
        "sim_state": VectorSpec.from_dict,
        "statistics": Statistics.from_dict,
    }
    for key, reader in readers.items():
        if meta[key] is None:
            continue
        try:
            reader(meta[key])
        except (KeyError, TypeError, ValueError, ConfigError, DataError) as error:
            problems.append(f"key '{key}' cannot be read: {type(error).__name__}: {error}")
    if meta["status"] == "complete" and meta["statistics"] is None:
        problems.append("key 'statistics' is null in a complete dataset")
    return problems


def read_meta(path: Path) -> dict[str, Any]:
    """Reads and checks `meta.json`.

    Raises:
        DataError: No such folder, not a dataset, a newer format, or a broken contract.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such dataset folder")
    meta_path = path / META_FILE
    if not meta_path.is_file():
        raise DataError(f"{path}: not a {FORMAT} dataset, it has no {META_FILE}")
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{meta_path}: not valid JSON: {error}") from error
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DataError(
            f"{meta_path}: format_version {version} is newer than this jepawm reads ({FORMAT_VERSION}); upgrade jepawm"
        )
    problems = meta_problems(meta)
    if problems:
        raise DataError(f"{meta_path}: " + "; ".join(problems))
    return dict(meta)
