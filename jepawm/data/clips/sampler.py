"""Which clips make up the batch of a train step: a function of (seed, train step) alone."""

from dataclasses import dataclass

import numpy as np

from jepawm.config.clips import ClipsConfig
from jepawm.data.loading.windows import EpochOrder
from jepawm.errors import ConfigError, DataError
from jepawm.seeding import stream_seed


@dataclass(frozen=True)
class ClipRequest:
    """What a stage of a pretraining asks of its clips.

    Attributes:
        num_frames: Frames of a clip, where the source does not name a number of its own.
        image_size: Side of the square frames, px.
        batch_size: Clips per train step over ALL workers.
        seed: Of the run.
        first_train_step: The stage's first train step; sources without weights begin an epoch there.
        last_train_step: One past the stage's last train step.
    """

    num_frames: int
    image_size: int
    batch_size: int
    seed: int
    first_train_step: int
    last_train_step: int

    def __post_init__(self) -> None:
        if min(self.num_frames, self.image_size, self.batch_size) < 1:
            raise ConfigError(
                f"clips need at least one frame, one pixel and one clip a batch, found {self.num_frames} frames, "
                f"{self.image_size} px and batches of {self.batch_size}"
            )
        if not 0 <= self.first_train_step < self.last_train_step:
            raise ConfigError(
                f"a stage needs train steps, found those from {self.first_train_step} to {self.last_train_step}"
            )


@dataclass(frozen=True)
class ClipDraws:
    """The clips of a global batch, before their frames are chosen.

    Attributes:
        train_step: The train step.
        sources: `[B]` int64, source of each clip.
        videos: `[B]` int64, number of its video among those of the source that clips are cut from.
        parts: `[B]` int64, part of the video that the clip is cut from, below `clips_per_video`.
    """

    train_step: int
    sources: np.ndarray
    videos: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True)
class GroupShare:
    """The clips of a batch that have as many frames as each other, and a worker's share of them.

    Attributes:
        index: Place of the frame count among those of the sources.
        slots: `[n]` int64, places of all clips of the group in the global batch, ascending.
        rows: The worker's share of them.
    """

    index: int
    slots: np.ndarray
    rows: slice


class ClipSampler:
    """Draws clips of weighted sources with replacement, and every video of sources without weights once per epoch.

    An epoch is a permutation of all videos; epochs are laid end to end, and begin anew at the first train step of a
    stage. Each drawn video gives `clips_per_video` clips, which follow each other in the batch.

    Args:
        config: The sources and their weights.
        num_videos: Videos of each source that clips are cut from.
        request: What the stage asks for.

    Raises:
        ConfigError: No sources, or a batch that is no multiple of `clips_per_video`.
        DataError: A source without videos.
    """

    def __init__(self, config: ClipsConfig, num_videos: list[int], request: ClipRequest) -> None:
        sources = config.all_sources
        if not sources:
            raise ConfigError("clips: there are no sources; name folders with clips.paths or clips.sources")
        for source, count in zip(sources, num_videos, strict=True):
            if count < 1:
                raise DataError(f"{source.path}: there are no videos to cut clips from")
        if request.batch_size % config.clips_per_video:
            raise ConfigError(
                f"a batch of {request.batch_size} clips cannot be made of videos that give {config.clips_per_video} "
                "each; make the batch size a multiple of clips.clips_per_video"
            )
        self.request = request
        self.num_frames_of = np.array([source.num_frames or request.num_frames for source in sources])
        """`[S]`, frames of a clip of each source."""
        self.group_frames = tuple(dict.fromkeys(self.num_frames_of.tolist()))
        """Frames of a clip of each group, by its index."""
        self._group_of = np.array([self.group_frames.index(frames) for frames in self.num_frames_of.tolist()])
        self._clips_per_video = config.clips_per_video
        self._num_videos = np.array(num_videos, dtype=np.int64)
        weights = [source.weight for source in sources if source.weight is not None]
        self._weights = np.array(weights) / sum(weights) if config.is_weighted else None
        self._ends = np.cumsum(self._num_videos)
        self._order = EpochOrder(int(self._ends[-1]), stream_seed(request.seed, "clip_order", request.first_train_step))

    def draws(self, train_step: int) -> ClipDraws:
        """The clips of a train step, over all workers.

        Raises:
            DataError: A train step of another stage.
        """
        request = self.request
        if not request.first_train_step <= train_step < request.last_train_step:
            raise DataError(
                f"train step {train_step} does not belong to the stage of the train steps "
                f"{request.first_train_step} to {request.last_train_step - 1}"
            )
        count = request.batch_size // self._clips_per_video
        if self._weights is None:
            items = self._order.items((train_step - request.first_train_step) * count, count)
            sources = np.searchsorted(self._ends, items, side="right")
            videos = items - (self._ends - self._num_videos)[sources]
        else:
            rng = np.random.default_rng(stream_seed(request.seed, "clip_draws", train_step))
            sources = rng.choice(len(self._weights), count, p=self._weights)
            videos = rng.integers(self._num_videos[sources])
        return ClipDraws(
            train_step,
            np.repeat(sources, self._clips_per_video),
            np.repeat(videos, self._clips_per_video),
            np.tile(np.arange(self._clips_per_video), count),
        )

    def shares(self, draws: ClipDraws, *, rank: int, world_size: int) -> tuple[GroupShare, ...]:
        """The groups of a batch, and a worker's share of each.

        The workers of a batch have equally many clips in all, and of a group equally many but for one clip: where a
        group cannot be split evenly, the next one goes on with the worker after the last that took a clip more.

        Args:
            draws: The batch.
            rank: The worker.
            world_size: Workers in all.

        Raises:
            ConfigError: The batch cannot be split evenly, or the worker is none of them.
        """
        check_split(self.request.batch_size, rank=rank, world_size=world_size)
        groups = self._group_of[draws.sources]
        shares, before = [], 0
        for index in np.unique(groups).tolist():
            slots = np.flatnonzero(groups == index)
            # Clips go round the workers, from group to group; each takes as many as fall to it, next to each other.
            owners = np.arange(before, before + len(slots)) % world_size
            end, own = int((owners <= rank).sum()), int((owners == rank).sum())
            shares.append(GroupShare(index, slots, slice(end - own, end)))
            before += len(slots)
        return tuple(shares)


def check_split(batch_size: int, *, rank: int, world_size: int) -> None:
    """Refuses a global batch that workers cannot share equally.

    Raises:
        ConfigError: Says which sizes they could share.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(f"clips: rank {rank} does not lie in [0, {world_size})")
    if batch_size % world_size:
        lower = max(batch_size // world_size, 1) * world_size
        raise ConfigError(
            f"clips: a global batch of {batch_size} clips cannot be split over {world_size} workers; use a multiple of "
            f"{world_size}, such as {lower} or {lower + world_size}"
        )
