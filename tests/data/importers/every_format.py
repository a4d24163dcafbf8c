"""A small source of every format, sound or with one bad episode, for the tests that hold for all importers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from published_datasets import (
    dino_wm_deformable,
    dino_wm_pointmaze,
    dino_wm_pusht,
    dino_wm_wall,
    frames_of,
    metaworld_parquet,
    swm_hdf5,
    video_bytes,
    zarr_buffer,
)
from robot_datasets import droid_raw, franka, lerobot, rlds, robocasa

BAD = 1
"""Number of the bad episode."""


@dataclass(frozen=True)
class Source:
    """How to write a source, and how to convert it.

    Attributes:
        write: Writes it to a path; with True, episode `BAD` is bad.
        path: Name of what is written, which a format may be recognised by.
        options: Options that the format needs.
        packages: Packages that the format needs.
    """

    write: Callable[[Path, bool], Any]
    path: str
    options: dict[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


def _pusht_zarr(path: Path, bad: bool) -> None:
    import zarr

    rng, ends = np.random.default_rng(8), (6, 11, 18)
    arrays = {
        "data/img": np.concatenate([frames_of(n, stop - start) for n, (start, stop) in enumerate(_spans(ends))]),
        "data/action": rng.uniform(100, 400, size=(ends[-1], 2)).astype(np.float32),
        "data/state": rng.uniform(100, 400, size=(ends[-1], 5)).astype(np.float32),
        "data/n_contacts": np.ones((ends[-1], 1), dtype=np.float32),
        "meta/episode_ends": np.array(ends),
    }
    arrays["data/img"] = arrays["data/img"].astype(np.float32)
    if bad:
        arrays["data/state"][8] = np.nan
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=(8, *values.shape[1:]))


def _spans(ends: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip((0, *ends[:-1]), ends, strict=True))


def _videos(path: Path, bad: bool) -> None:
    for number in range(3):
        data = video_bytes(frames_of(number, 12), fps=4)
        folder = path / f"label{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        name = folder / f"{'bac'[number]}.mp4"
        name.write_bytes(data)
    if bad:
        # In the order of paths: label0/b, label0/c, label1/a.
        (path / "label0/c.mp4").write_bytes(b"no video" * 40)


def _nan(name: str, row: int) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[name].__setitem__(row, np.nan)


def _with(write: Callable[..., Any], spoil: Callable[[dict[str, Any]], Any]) -> Callable[[Path, bool], Any]:
    return lambda path, bad: write(path, spoil if bad else None)


def _cut(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.update({name: content[name][:2]})


SOURCES: dict[str, Source] = {
    "pusht-zarr": Source(_pusht_zarr, "pusht.zarr", packages=("zarr",)),
    "zarr-buffer": Source(
        _with(zarr_buffer, _nan("data/robot_eef_pose", 7)), "b.zarr", {"control_hz": 10}, packages=("zarr",)
    ),
    "dino-wm-pusht": Source(
        _with(dino_wm_pusht, lambda content: content.pop("obses/episode_001.mp4")), "pusht_noise", packages=("av",)
    ),
    "dino-wm-pointmaze": Source(_with(dino_wm_pointmaze, _cut("obses/episode_001.pth")), "point_maze"),
    "dino-wm-wall": Source(_with(dino_wm_wall, _nan("obses/episode_001.pth", 3)), "wall_single"),
    "dino-wm-rope": Source(_with(dino_wm_deformable, _cut("000001/obses.pth")), "rope"),
    "dino-wm-granular": Source(_with(dino_wm_deformable, _cut("000001/obses.pth")), "granular"),
    "metaworld-parquet": Source(
        _with(metaworld_parquet, lambda rows: rows[1]["actions"][2].__setitem__(0, float("nan"))),
        "s.parquet",
        packages=("av",),
    ),
    "stable-worldmodel": Source(_with(swm_hdf5, _nan("proprio", 7)), "push.h5", {"control_hz": 10}, packages=("h5py",)),
    "lerobot": Source(lambda path, bad: lerobot(path, "v3.0", _nan_state if bad else None), "arm", packages=("av",)),
    "rlds": Source(
        _with(rlds, lambda parts: parts["episodes"][1]["steps/observation/image_0"].__setitem__(1, b"junk")),
        "1.0.0",
        packages=("google_crc32c", "google.protobuf"),
    ),
    "droid-raw": Source(
        _with(droid_raw, lambda parts: parts.update(files=dict.fromkeys(parts["files"], b"no video"))),
        "droid",
        packages=("av", "h5py"),
    ),
    "franka-hdf5": Source(
        _with(franka, _nan("episode_data/observation/cartesian_position", 5)), "franka", packages=("h5py",)
    ),
    "robocasa-hdf5": Source(
        _with(robocasa, lambda content: content["data/demo_2/obs/robot0_eef_quat"].__setitem__(1, 0.0)),
        "kitchen.hdf5",
        packages=("h5py",),
    ),
    "video-folder": Source(_videos, "videos", packages=("av",)),
}


def _nan_state(parts: dict[str, Any]) -> None:
    parts["rows"][3]["observation.state"][4][0] = float("nan")
