"""Clips of the videos that a pretraining holds out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jepawm.config.clips import AugmentConfig
from jepawm.config.pretrain import PretrainPlan
from jepawm.data.clips.frames import clip_frames, frame_step
from jepawm.data.clips.mixture import ClipMixture
from jepawm.data.clips.sampler import ClipRequest
from jepawm.data.clips.sources import ClipSource, DatasetClips
from jepawm.errors import DataError
from jepawm.seeding import stream_seed
from jepawm.training.augment import augment, draw_augmentation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOutClips:
    """Clips of held-out videos that have as many frames as each other.

    Attributes:
        index: Place of the frame count among those of the sources, see `ClipGroup`.
        sources: `[B]` int64, number of each clip's source, ascending.
        videos: `[B]` int64, number of each clip's video in its source; clips of one video stand together.
        pixels: `[B,T,C,Y,X]` uint8, the largest square in the middle at the size of the stage.
        states: State name -> `[B]` the simulator's numbers at the last frame, NaN where the episode has none.
    """

    index: int
    sources: np.ndarray
    videos: np.ndarray
    pixels: np.ndarray
    states: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Clip:
    """One held-out clip; see `HeldOutClips`."""

    source: int
    video: int
    pixels: np.ndarray
    state: dict[str, float]


def held_out_clips(
    config: PretrainPlan, sources: tuple[ClipSource, ...], request: ClipRequest, num_clips: int
) -> list[HeldOutClips]:
    """Clips of the held-out videos of all sources, the same for the same seed.

    Args:
        config: Of the clips.
        sources: Opened, in the order of the configuration.
        request: Frames and size of the stage.
        num_clips: In all; sources have shares by the number of their held-out videos, and at least two clips.

    Returns:
        One entry for each frame count; those with fewer than two clips are left out. Empty where no video is held out.

    Raises:
        DataError: A video cannot be decoded; with `clips.unreadable: skip` it is left out.
    """
    clips, seed = config.clips, config.seed
    sampler = ClipMixture(clips, request, sources=sources).sampler
    held_out = [source.split(clips.held_out_fraction, seed)[1] for source in sources]
    total = sum(map(len, held_out))
    found: dict[int, list[_Clip]] = {}
    for number, (source, videos) in enumerate(zip(sources, held_out, strict=True)):
        frames = int(sampler.num_frames_of[number])
        rng = np.random.default_rng(stream_seed(seed, "held_out_clips", number))
        order = rng.permutation(videos)
        # Of a single clip there is no deviation.
        count = max(2, round(num_clips * len(videos) / total)) if len(videos) else 0
        # Clips of one video stand together, so that a probe is measured on other videos than it was fitted to.
        for video in sorted(order[at % len(order)] for at in range(count)):
            step = frame_step(clips.all_sources[number], clips, float(source.fps_each[video]))
            chosen = clip_frames(int(source.num_frames_each[video]), step, frames, rng.random())
            try:
                pixels = torch.from_numpy(source.read(int(video), chosen))
            except DataError as error:
                if clips.unreadable == "error":
                    raise
                logger.warning("%s; nothing is measured on it", error)
                continue
            height, width = pixels.shape[-2:]
            whole = draw_augmentation(
                AugmentConfig(crop=False, flip=False), height=height, width=width, seed=seed, train_step=0, slot=0
            )
            shown = augment(pixels, whole, request.image_size).numpy()
            index = sampler.group_frames.index(frames)
            state = _state(source, int(video), int(chosen[-1]))
            found.setdefault(index, []).append(_Clip(number, int(video), shown, state))
    return [_stacked(index, clips_of) for index, clips_of in sorted(found.items()) if len(clips_of) > 1]


def _state(source: ClipSource, video: int, frame: int) -> dict[str, float]:
    """The simulator's numbers at a frame, by name."""
    if not isinstance(source, DatasetClips):
        return {}
    dataset = source.dataset
    spec = dataset.spec.sim_state
    if spec is None:
        return {}
    names = spec.names or tuple(str(number) for number in range(spec.dim))
    values = dataset.read_column("sim_state", int(dataset.episode_ids[video]))[frame]
    return dict(zip(names, values.tolist(), strict=True))


def _stacked(index: int, clips: Sequence[_Clip]) -> HeldOutClips:
    names = dict.fromkeys(name for clip in clips for name in clip.state)
    return HeldOutClips(
        index,
        sources=np.array([clip.source for clip in clips]),
        videos=np.array([clip.video for clip in clips]),
        pixels=np.stack([clip.pixels for clip in clips]),
        states={name: np.array([clip.state.get(name, np.nan) for clip in clips]) for name in names},
    )
