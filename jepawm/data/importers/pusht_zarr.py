"""Push-T human demonstrations (Diffusion Policy): zarr v2, in a zip or a folder, becomes an episode dataset.

| theirs | ours |
|---|---|
| `data/img` `[N,96,96,3]` float32, 0-255, RGB | `pixels` uint8 |
| `data/action` `[N,2]`: target of the agent, px of a 512 px window | `actions` = (target - agent) / 100 |
| `data/state` `[N,5]`: agent x y, block x y, block angle | `proprio` = agent x y; `sim_state` = all five |
| `meta/episode_ends` `[E]`: one past each episode's last frame | episode ids 0, 1, ... in that order |

Their action at frame `t` is the target chosen on seeing frame `t`; it leads to frame `t + 1`. The last one of
an episode leads nowhere and is dropped. The environment adds the agent's position back and multiplies by 100,
as DINO-WM does. The recordings run at 10 Hz.

The recorded relative actions reach 1.76 (176 px). The action bounds are +-2 (200 px), or the next tenth above
the data where a file holds more: a bound tighter than the data would forbid a planner what the demonstrator
did.

Reference: C. Chi et al., "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", RSS 2023.
"""

import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.data.writer import EpisodeWriter
from jepawm.errors import DataError, require
from jepawm.types import ActionSpec, Episode, VectorSpec

ACTION_SCALE_PX = 100.0
CONTROL_HZ = 10.0
MIN_ACTION_BOUND = 2.0
ARRAYS = ("data/img", "data/action", "data/state", "meta/episode_ends")
WIDTHS = {"data/action": 2, "data/state": 5}


def import_pusht_zarr(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    max_episodes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Imports the demonstrations, reading the images chunk by chunk.

    The dataset appears under its name once it is whole; a failure leaves nothing behind.

    Args:
        source: `pusht_cchi_v7_replay.zarr.zip`, or a folder of the same content.
        destination: Dataset to create.
        image_size: Resize frames to this many px a side; as recorded (96) by default.
        max_episodes: Import only the first episodes.
        progress: Called with (episodes done, episodes in all).

    Returns:
        Number of episodes imported.

    Raises:
        DataError: A missing or damaged source, or one of another layout (names the array and row), or an
            existing destination.
        MissingDependencyError: The package `zarr` is not installed.
    """
    zarr = require("zarr", "zarr")
    source, destination = Path(source), Path(destination)
    if destination.exists():
        raise DataError(f"{destination}: already exists; choose another destination or delete it")
    if max_episodes is not None and max_episodes < 1:
        raise DataError(f"max_episodes must be 1 or more, found {max_episodes}")
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size must be 1 or more, found {image_size}")
    partial = destination.with_name(f".{destination.name}.importing")
    store, prefix = _open_store(zarr, source)
    try:
        arrays = {name: _open_array(zarr, store, source, prefix, name) for name in ARRAYS}
        images, state, target, ends = _read_vectors(source, arrays)
        ends = ends[:max_episodes]
        side = image_size or int(images.shape[1])
        relative = (target - state[:, :2]) / np.float32(ACTION_SCALE_PX)
        spec = _spec(source, side, relative[: ends[-1]], len(ends))
        shutil.rmtree(partial, ignore_errors=True)
        start = 0
        with EpisodeWriter(partial, spec) as writer:
            for number, frames in enumerate(_episode_frames(source, images, ends)):
                stop = int(ends[number])
                writer.write(
                    Episode(
                        episode_id=number,
                        pixels=_resize(frames, side),
                        actions=relative[start : stop - 1],
                        proprio=state[start:stop, :2].astype(np.float32),
                        sim_state=state[start:stop].astype(np.float64),
                        info={"source_rows": [start, stop]},
                    )
                )
                start = stop
                if progress is not None:
                    progress(number + 1, len(ends))
        os.replace(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        store.close()
    return len(ends)


def _spec(source: Path, side: int, actions: np.ndarray, episodes: int) -> DatasetSpec:
    bound = max(MIN_ACTION_BOUND, math.ceil(float(np.abs(actions).max()) * 10) / 10)
    return DatasetSpec(
        name="pusht-human",
        control_hz=CONTROL_HZ,
        pixels=PixelSpec(side, side, 3),
        action=ActionSpec(
            dim=2,
            low=(-bound, -bound),
            high=(bound, bound),
            names=("target_dx", "target_dy"),
            units="100 px of a 512 px window, relative to the agent",
        ),
        proprio=VectorSpec(2, ("agent_x_px", "agent_y_px")),
        sim_state=VectorSpec(5, ("agent_x_px", "agent_y_px", "block_x_px", "block_y_px", "block_angle_rad")),
        source={
            "importer": "pusht_zarr",
            "file": source.name,
            "episodes": episodes,
            "action_scale_px": ACTION_SCALE_PX,
        },
    )


def _open_store(zarr: Any, source: Path) -> tuple[Any, str]:
    """The zarr store, and the folder inside it that holds `data` and `meta`."""
    if not source.exists():
        raise DataError(f"{source}: no such file; expected the Push-T zarr, as a zip or a folder")
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in source.rglob(".zgroup")]
        return zarr.storage.LocalStore(source, read_only=True), _prefix(source, names)
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"{source}: not a zip file, or a truncated one: {error}; copy it again") from error
    for name in names:
        # Nothing is extracted, yet a path that climbs out of the archive means that it is not what it claims
        # to be.
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DataError(f"{source}: the entry '{name}' points outside the archive; refusing to read it")
    prefix = _prefix(source, names)
    return zarr.storage.ZipStore(source, mode="r"), prefix


def _prefix(source: Path, names: list[str]) -> str:
    roots = {name.removesuffix("data/.zgroup") for name in names if name.endswith("data/.zgroup")}
    if len(roots) != 1:
        raise DataError(f"{source}: not the Push-T zarr (v2): expected one group 'data', found {len(roots)}")
    return roots.pop()


def _open_array(zarr: Any, store: Any, source: Path, prefix: str, name: str) -> Any:
    try:
        array = zarr.open_array(store, path=prefix + name, mode="r", zarr_format=2)
    except (FileNotFoundError, KeyError) as error:
        raise DataError(f"{source}: array '{name}' is missing; expected {', '.join(ARRAYS)}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{source}: array '{name}' cannot be opened: {error}") from error
    # zarr reads a chunk that is not there as zeros, without a word.
    if array.nchunks_initialized != array.nchunks:
        raise DataError(
            f"{source}: array '{name}' has {array.nchunks_initialized} of its {array.nchunks} chunks; copy it again"
        )
    return array


def _read_vectors(source: Path, arrays: dict[str, Any]) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Checks all shapes, and reads everything but the images."""
    images, ends = (
        arrays["data/img"],
        _read(source, "meta/episode_ends", arrays["meta/episode_ends"], slice(None)),
    )
    if len(images.shape) != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise DataError(f"{source}: array 'data/img' has shape {images.shape}, expected (N, size, size, 3)")
    if ends.ndim != 1 or not np.issubdtype(ends.dtype, np.integer) or len(ends) == 0:
        raise DataError(f"{source}: array 'meta/episode_ends' is {ends.dtype} {ends.shape}, expected integers (E,)")
    steps = np.diff(ends, prepend=0)
    short = np.flatnonzero(steps <= 0)
    if len(short):
        raise DataError(f"{source}: array 'meta/episode_ends' does not increase at row {short[0]}: {ends[short[0]]}")
    vectors = {}
    for name, width in WIDTHS.items():
        array = arrays[name]
        if len(array.shape) != 2 or array.shape[1] != width:
            raise DataError(f"{source}: array '{name}' has shape {array.shape}, expected (N, {width})")
        vectors[name] = _read(source, name, array, slice(None)).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(vectors[name]).all(axis=1))
        if len(bad):
            raise DataError(f"{source}: array '{name}' row {bad[0]} holds NaN or infinity")
    for name in ("data/img", "data/action", "data/state"):
        if arrays[name].shape[0] != ends[-1]:
            raise DataError(
                f"{source}: array '{name}' has {arrays[name].shape[0]} rows, 'meta/episode_ends' ends at {ends[-1]}"
            )
    return images, vectors["data/state"], vectors["data/action"], ends


def _read(source: Path, name: str, array: Any, rows: slice) -> np.ndarray:
    try:
        return np.asarray(array[rows])
    except (zipfile.BadZipFile, RuntimeError, ValueError, OSError) as error:
        where = f"rows {rows.start} to {rows.stop}" if rows.stop is not None else "some rows"
        raise DataError(f"{source}: array '{name}', {where}, cannot be read: {error}; copy the file again") from error


def _episode_frames(source: Path, images: Any, ends: np.ndarray) -> Iterator[np.ndarray]:
    """Frames of each episode, uint8, reading every chunk of the zarr array once."""
    step = images.chunks[0]
    held: list[np.ndarray] = []
    held_rows = read = start = 0
    for end in ends.tolist():
        while held_rows < end - start:
            held.append(_as_uint8(source, _read(source, "data/img", images, slice(read, read + step)), read))
            held_rows += len(held[-1])
            read += len(held[-1])
        joined = np.concatenate(held)
        yield joined[: end - start]
        held, held_rows = [joined[end - start :]], held_rows - (end - start)
        start = end


def _as_uint8(source: Path, frames: np.ndarray, first_row: int) -> np.ndarray:
    if frames.dtype == np.uint8:
        return np.asarray(frames)
    # NaN fails both comparisons, so it is caught here as well.
    bad = np.flatnonzero(~((frames >= 0) & (frames <= 255)).all(axis=(1, 2, 3)))
    if len(bad):
        raise DataError(f"{source}: array 'data/img' row {first_row + bad[0]} holds NaN or values outside 0 to 255")
    return np.asarray(np.rint(frames), dtype=np.uint8)


def _resize(frames: np.ndarray, side: int) -> np.ndarray:
    if frames.shape[1] == side:
        return frames
    import cv2

    # Area averaging does not alias when shrinking.
    how = cv2.INTER_AREA if side < frames.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (side, side), interpolation=how) for frame in frames])
