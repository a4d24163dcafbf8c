"""Videos without actions, for heads and pretraining: a folder of videos, or a list in the form of K400 and SSv2.

A list has a path and a label a line, separated by a space, a comma or a tab; the label may be missing. In a folder, the
folder of a video is its label, as in K400. Frames are resampled to about 4 a second, as published: every `n`-th is
kept, with `n` the rate of the video, rounded up, divided by 4 and rounded down. An episode has no actions and no
proprio: both are of width 0.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers.base import Choices, EpisodeSource, ImportOptions, file_stamp, square_spec
from jepawm.data.importers.reading import files_below, has_below, read_path_list, resampled
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.data.video import SUFFIXES, frames_apart, is_video_name, iter_video, video_info
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode, VectorSpec

FRAMES_PER_S = 4.0
# What other formats hold beside their videos.
_OTHER_FORMATS = (".parquet", ".h5", ".hdf5", ".pth", ".pkl", ".npz", ".npy", ".lance", ".zarr")
_STAMPED = 10_000


class VideoFolder(EpisodeSource):
    """Videos below a folder, or those that a list names.

    Raises:
        DataError: There are no videos, a listed video is missing, a path leaves the folder of the list, or a video
            cannot be decoded; the message names it.
        MissingDependencyError: The package `av` is not installed.
    """

    name = "video-folder"
    about = "videos without actions: a folder, or a list of paths and labels (K400, SSv2, HowTo100M)"

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(camera=options.camera, split=options.split)
        self._target_hz = options.control_hz or FRAMES_PER_S
        if self.path.is_file():
            self._videos = self._listed()
        else:
            found = files_below(self.path, is_video_name)
            self._videos = [(video, _folder_label(video.relative_to(self.path))) for video in found]
        if not self._videos:
            raise DataError(f"{self.path}: no videos ({', '.join(SUFFIXES)})")
        # Other videos may have another size; each is made square and resized to the size of the first one.
        height, width = self.first_sound(self._frame_size)
        self._side = square_spec(height, width, options)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_dir():
            others = has_below(path, lambda name: name.endswith(_OTHER_FORMATS) or ".tfrecord" in name)
            return not others and has_below(path, is_video_name)
        if path.suffix not in (".csv", ".txt"):
            return False
        try:
            listed = read_path_list(path)
        except DataError:
            return False
        return bool(listed) and is_video_name(listed[0][0].name)

    @property
    def num_episodes(self) -> int:
        return len(self._videos)

    def spec(self) -> DatasetSpec:
        return DatasetSpec(
            name=self.path.resolve().stem,
            control_hz=self._target_hz,
            pixels=PixelSpec(self._side, self._side, 3, self.options.codec or "jpeg"),
            action=ActionSpec(0, (), ()),
            proprio=VectorSpec(0),
            source={"rate": "control_hz is about the rate of the frames; info.fps has that of each video"},
        )

    def choices(self) -> Choices:
        return Choices(
            took={"pixels": ["the first video stream of each file"], "info": ["the label of each video"]},
            assumed=[f"every n-th frame, about {self._target_hz:g} a second; info.fps has the rate of each video"],
        )

    def _frame_size(self, number: int) -> tuple[int, int]:
        video = self._videos[number][0]
        info = video_info(video, what=str(video))
        return info.height, info.width

    def read(self, number: int) -> Episode:
        video, label = self._videos[number]
        info = video_info(video, what=str(video))
        every = frames_apart(info.fps, self._target_hz)
        pixels, frames = resampled(iter_video(video, what=str(video)), self._side, every)
        if len(pixels) < 2:
            raise DataError(
                f"{video}: {frames} frames at {info.fps:g} Hz leave {len(pixels)} at {self._target_hz:g} Hz, an "
                "episode needs 2; give a higher --control-hz, or leave the video out"
            )
        root = self.path if self.path.is_dir() else self.path.parent
        facts: dict[str, Any] = {"video": os.path.relpath(video, root), "fps": info.fps / every}
        if label:
            facts["label"] = int(label) if label.removeprefix("-").isdecimal() else label
        return Episode(
            episode_id=number,
            pixels=pixels,
            actions=np.empty((len(pixels) - 1, 0), dtype=np.float32),
            proprio=np.empty((len(pixels), 0), dtype=np.float32),
            info=facts,
        )

    def stamp(self) -> list[Any]:
        facts = file_stamp(self.path)
        if self.path.is_file():
            # A look at each of many videos would take longer than it is worth.
            for video, _ in self._videos[:_STAMPED]:
                facts += file_stamp(video)
        return facts

    def _listed(self) -> list[tuple[Path, str]]:
        listed = read_path_list(self.path)
        for number, (video, _, line) in enumerate(listed):
            if not video.is_file():
                self.mark_bad(number, f"{self.path}: line {line}: no such file: {video}")
        return [(video, label) for video, label, _ in listed]


def _folder_label(relative: Path) -> str:
    return "" if relative.parent == Path() else relative.parent.as_posix()
