"""Tiny datasets in the layouts in which others publish theirs, for the importers' tests.

Each writer makes its content as a dict from file (or array) to value, hands it to `change`, writes it, and returns it.
"""

import io
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

Content = dict[str, Any]
Change = Callable[[Content], Any]

SIZE = 32
PUSHT_LENGTHS = (7, 5, 9)
PARTICLES = 6


def frames_of(episode: int, count: int, size: int = SIZE) -> np.ndarray:
    """`[count,size,size,3]` uint8: a block that moves with the frame, on a ramp that tells the episode."""
    frames = np.empty((count, size, size, 3), dtype=np.uint8)
    frames[:] = (np.linspace(20, 90, size)[None, :, None] + 40 * (episode % 3)).astype(np.uint8)
    for t in range(count):
        frames[t, 8:16, (2 * t) % (size - 8) : (2 * t) % (size - 8) + 8] = (250, 120, 10 * t)
    return frames


def video_bytes(frames: np.ndarray, *, fps: int = 10, codec: str = "libx264", **options: str) -> bytes:
    """An mp4, as good as the codec can."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps, options={"qp": "0", **options})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def short_gop_video(frames: np.ndarray, codec: str = "libx264", times: tuple[int, ...] = ()) -> bytes:
    """An mp4 of 10 frames a second with a key frame every five, or with frames at `times`, in tenths of a second."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.gop_size = 5
        for t, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times:
                picture.pts, picture.time_base = times[t], Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def write_files(root: Path, content: Content) -> None:
    """Writes `.pth` with torch, `.pkl` with pickle, `.mp4` from frames, and bytes as they are."""
    for name, value in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif path.suffix == ".pth":
            torch.save(torch.from_numpy(value) if isinstance(value, np.ndarray) else value, path)
        elif path.suffix == ".pkl":
            path.write_bytes(pickle.dumps(value))
        else:
            path.write_bytes(video_bytes(value))


def _padded(rng: np.random.Generator, lengths: tuple[int, ...], width: int, scale: float) -> np.ndarray:
    """`[N,Tmax,width]` float32 with NaN after each episode's end: nobody may look there."""
    values = rng.uniform(-scale, scale, size=(len(lengths), max(lengths), width)).astype(np.float32)
    for row, length in enumerate(lengths):
        values[row, length:] = np.nan
    return values


def dino_wm_pusht(root: Path, change: Change | None = None, split: str = "train") -> Content:
    """`pusht_noise/SPLIT`: three episodes of different lengths."""
    rng = np.random.default_rng(1)
    content: Content = {
        "states.pth": np.abs(_padded(rng, PUSHT_LENGTHS, 5, 400)),
        "velocities.pth": _padded(rng, PUSHT_LENGTHS, 2, 50),
        "rel_actions.pth": _padded(rng, PUSHT_LENGTHS, 2, 90),
        "abs_actions.pth": _padded(rng, PUSHT_LENGTHS, 2, 400),
        "seq_lengths.pkl": list(PUSHT_LENGTHS),
    }
    for number, length in enumerate(PUSHT_LENGTHS):
        content[f"obses/episode_{number:03d}.mp4"] = frames_of(number, length)
    if change is not None:
        change(content)
    write_files(root / split, content)
    return content


def dino_wm_pointmaze(root: Path, change: Change | None = None) -> Content:
    """`point_maze`: two episodes of 6 states, frames uint8 with channels last."""
    rng = np.random.default_rng(2)
    content: Content = {
        "states.pth": rng.uniform(0, 3, size=(2, 6, 4)).astype(np.float32),
        "actions.pth": rng.uniform(-1, 1, size=(2, 6, 2)).astype(np.float32),
        "seq_lengths.pth": np.array([6, 5]),
    }
    for number, length in enumerate((6, 5)):
        content[f"obses/episode_{number:03d}.pth"] = frames_of(number, length)
    if change is not None:
        change(content)
    write_files(root, content)
    return content


def dino_wm_wall(root: Path, change: Change | None = None) -> Content:
    """`wall_single`: two episodes of 5 states and 6 float frames with channels first."""
    rng = np.random.default_rng(3)
    content: Content = {
        "states.pth": rng.uniform(5, 60, size=(2, 5, 2)).astype(np.float32),
        "actions.pth": rng.uniform(-1.5, 1.5, size=(2, 5, 2)).astype(np.float32),
        "door_locations.pth": np.array([[[30.0]] * 5, [[20.5]] * 5], dtype=np.float32),
        "wall_locations.pth": np.array([[[32.0]] * 5, [[25.0]] * 5], dtype=np.float32),
    }
    for number in range(2):
        content[f"obses/episode_{number:03d}.pth"] = (
            frames_of(number, 6).transpose(0, 3, 1, 2).astype(np.float32).copy()
        )
    if change is not None:
        change(content)
    write_files(root, content)
    return content


def dino_wm_deformable(root: Path, change: Change | None = None) -> Content:
    """`deformable/rope` or `deformable/granular`: two episodes of 4 states."""
    rng = np.random.default_rng(4)
    content: Content = {
        "states.pth": rng.normal(size=(2, 4, PARTICLES, 4)).astype(np.float32),
        "actions.pth": rng.uniform(-2.3, 2.3, size=(2, 4, 4)).astype(np.float32),
    }
    for number in range(2):
        content[f"{number:06d}/obses.pth"] = frames_of(number, 4)
    if change is not None:
        change(content)
    write_files(root, content)
    return content


def metaworld_rows(episodes: int = 3, states: int = 6) -> list[Content]:
    """Rows of jepa-wms' Metaworld: `states` states, one action fewer, and an mp4."""
    rng = np.random.default_rng(5)
    return [
        {
            "task": ("mw-reach", "mw-push")[number % 2],
            "video": {"bytes": video_bytes(frames_of(number, states)), "path": f"episode_{number}.mp4"},
            "states": rng.normal(size=(states, 39)).astype(np.float32).tolist(),
            "actions": rng.uniform(-1, 1, size=(states - 1, 4)).astype(np.float32).tolist(),
            "rewards": rng.uniform(size=states - 1).astype(np.float32).tolist(),
        }
        for number in range(episodes)
    ]


def metaworld_parquet(
    path: Path, change: Callable[[list[Content]], Any] | None = None, episodes: int = 3, per_group: int = 2
) -> list[Content]:
    """One shard of jepa-wms' Metaworld."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = metaworld_rows(episodes)
    if change is not None:
        change(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=per_group)
    return rows


SWM_LENGTHS = (6, 4, 7)


def stable_worldmodel_columns() -> Content:
    """Columns of three episodes: the last action of each is NaN, as stable-worldmodel records it."""
    rng = np.random.default_rng(6)
    total = sum(SWM_LENGTHS)
    action = rng.uniform(-1, 1, size=(total, 2)).astype(np.float32)
    action[np.cumsum(SWM_LENGTHS) - 1] = np.nan
    colour = np.repeat(rng.uniform(size=(len(SWM_LENGTHS), 3)).astype(np.float32), SWM_LENGTHS, axis=0)
    return {
        "pixels": np.concatenate([frames_of(number, length) for number, length in enumerate(SWM_LENGTHS)]),
        "action": action,
        "proprio": rng.normal(size=(total, 4)).astype(np.float32),
        "state": rng.normal(size=(total, 7)).astype(np.float32),
        "reward": rng.normal(size=total).astype(np.float32),
        "variation.agent.color": colour,
        "ep_len": np.array(SWM_LENGTHS, dtype=np.int32),
        "ep_offset": np.array([0, *np.cumsum(SWM_LENGTHS)[:-1]], dtype=np.int64),
    }


def swm_hdf5(path: Path, change: Change | None = None) -> Content:
    """One file of stable-worldmodel's HDF5 format."""
    import h5py

    content = stable_worldmodel_columns()
    if change is not None:
        change(content)
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in content.items():
            if isinstance(values, (h5py.ExternalLink, h5py.VirtualLayout)):
                if isinstance(values, h5py.ExternalLink):
                    file[name] = values
                else:
                    file.create_virtual_dataset(name, values)
            elif isinstance(values, list):
                file.create_dataset(name, data=values, dtype=h5py.string_dtype())
            else:
                file.create_dataset(
                    name, data=values, chunks=(1, *values.shape[1:]), maxshape=(None, *values.shape[1:])
                )
    return content


def jpeg(frame: np.ndarray) -> bytes:
    """A JPEG of quality 95."""
    import cv2

    return cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def swm_lance(path: Path, change: Change | None = None) -> Content:
    """A table of stable-worldmodel's Lance format: JPEG frames, no dots in names, episodes by their index."""
    import lance
    import pyarrow as pa

    content = stable_worldmodel_columns()
    lengths = content.pop("ep_len")
    del content["ep_offset"]
    content = {name.replace(".", "_"): values for name, values in content.items()}
    content["pixels"] = [jpeg(frame) for frame in content["pixels"]]
    content["episode_idx"] = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    content["step_idx"] = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    if change is not None:
        change(content)
    columns = {}
    for name, values in content.items():
        if isinstance(values, np.ndarray) and values.dtype == np.float32:
            flat = values.reshape(len(values), -1)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
        else:
            columns[name] = pa.array(values)
    lance.write_dataset(pa.table(columns), str(path))
    return content


def swm_folder(path: Path, change: Change | None = None, *, video: bool = False) -> Content:
    """A folder of stable-worldmodel's image or video format."""
    content = stable_worldmodel_columns()
    pixels = np.split(content.pop("pixels"), np.cumsum(SWM_LENGTHS)[:-1])
    for number, frames in enumerate(pixels):
        if video:
            content[f"pixels/ep_{number}.mp4"] = frames
            continue
        for step, frame in enumerate(frames):
            content[f"pixels/ep_{number}_step_{step}.jpeg"] = jpeg(frame)
    if change is not None:
        change(content)
    (path / "pixels").mkdir(parents=True, exist_ok=True)
    for name, values in content.items():
        if "/" in name:
            write_files(path, {name: values})
        else:
            np.savez(path / f"{name}.npz", values)
    return content


BUFFER_ENDS = (6, 10, 17)


def replay_buffer() -> Content:
    """Arrays of three episodes in the layout of Diffusion Policy's buffers."""
    rng = np.random.default_rng(7)
    lengths = np.diff(BUFFER_ENDS, prepend=0).tolist()
    total = BUFFER_ENDS[-1]
    return {
        "data/camera_0": np.concatenate([frames_of(number, length) for number, length in enumerate(lengths)]),
        "data/action": rng.uniform(-3, 3, size=(total, 3)).astype(np.float32),
        "data/robot_eef_pose": rng.normal(size=(total, 6)),
        "data/state": rng.normal(size=(total, 4)).astype(np.float32),
        "data/stage": np.zeros(total, dtype=np.int64) + 1,
        "meta/episode_ends": np.array(BUFFER_ENDS, dtype=np.int64),
    }


def zarr_buffer(
    path: Path,
    change: Change | None = None,
    *,
    version: int = 2,
    zipped: bool = False,
    damage: Callable[[Path], Any] | None = None,
) -> Content:
    """A replay buffer as a folder or a zip around one; `damage` edits the files."""
    import zipfile

    import zarr

    content = replay_buffer()
    if change is not None:
        change(content)
    root = path.with_name(f"{path.name}.unpacked") if zipped else path
    group = zarr.open_group(root, mode="w", zarr_format=version)
    for name, values in content.items():
        # Chunks of 4 rows, so that chunks and episodes cross each other.
        group.create_array(name, data=values, chunks=(4, *values.shape[1:]))
    if damage is not None:
        damage(root)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    archive.write(file, Path("inner") / file.relative_to(root))
    return content
