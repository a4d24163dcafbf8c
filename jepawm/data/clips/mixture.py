"""All sources together: which frames a drawn clip is made of, and how they are read."""

import logging

import numpy as np

from jepawm.config.clips import ClipsConfig
from jepawm.data.clips.frames import clip_frames, frame_step
from jepawm.data.clips.sampler import ClipDraws, ClipRequest, ClipSampler
from jepawm.data.clips.sources import ClipSource, open_source
from jepawm.errors import DataError
from jepawm.seeding import stream_seed

logger = logging.getLogger(__name__)

# Other videos that are tried in place of one that cannot be decoded.
_MOST_REDRAWS = 10


class ClipMixture:
    """The sources of a pretraining, opened, with the sampler of a stage. Threads may read at the same time.

    Args:
        config: The sources and how clips are cut from them.
        request: What the stage asks for.
        sources: The opened sources, e.g. those of the stage before; None: opens them.

    Attributes:
        sources: The opened sources.
        sampler: Draws the clips of a train step.

    Raises:
        ConfigError: No sources, or a batch that does not fit `clips_per_video`.
        DataError: A source that cannot be opened, or a video too short for `clips_per_video` parts.
    """

    def __init__(
        self, config: ClipsConfig, request: ClipRequest, *, sources: tuple[ClipSource, ...] | None = None
    ) -> None:
        self.config = config
        self.request = request
        self.sources = sources or tuple(open_source(source, config) for source in config.all_sources)
        self._videos = [source.split(config.held_out_fraction, request.seed)[0] for source in self.sources]
        self.sampler = ClipSampler(config, [len(videos) for videos in self._videos], request)
        for source, videos in zip(self.sources, self._videos, strict=True):
            short = videos[source.num_frames_each[videos] < config.clips_per_video]
            if len(short):
                raise DataError(
                    f"{source.name(int(short[0]))}: {source.num_frames_each[short[0]]} frames cannot be split into "
                    f"{config.clips_per_video} parts; lower clips.clips_per_video, or leave the video out"
                )

    def read(self, draws: ClipDraws, slot: int) -> np.ndarray:
        """Reads a drawn clip.

        A file that cannot be decoded is replaced by another one of its source where `clips.unreadable` is `skip`;
        which one depends on (seed, train step, slot) alone.

        Args:
            draws: A batch.
            slot: Place of the clip in it.

        Returns:
            `[T,C,Y,X]` uint8 frames, of the size they were recorded in.

        Raises:
            DataError: The clip cannot be decoded; names the file.
        """
        number = int(draws.sources[slot])
        source, videos = self.sources[number], self._videos[number]
        seed = self.request.seed
        rng = np.random.default_rng(stream_seed(seed, "clip_place", draws.train_step, slot))
        video, place = self.video_of(draws, slot), rng.random()
        for attempt in range(_MOST_REDRAWS):
            try:
                return source.read(video, self.frames_of(number, video, int(draws.parts[slot]), place))
            except DataError as error:
                if self.config.unreadable == "error" or attempt + 1 == _MOST_REDRAWS:
                    raise
                logger.warning("%s; another video takes its place", error)
            video, place = int(rng.choice(videos)), rng.random()
        raise AssertionError("the last attempt returns or raises")

    def video_of(self, draws: ClipDraws, slot: int) -> int:
        """Number of a drawn clip's video in its source."""
        return int(self._videos[int(draws.sources[slot])][draws.videos[slot]])

    def frames_of(self, source: int, video: int, part: int, place: float) -> np.ndarray:
        """The frames of a clip, `[T]` int64.

        Args:
            source: Number of the source.
            video: Number of the video in the source.
            part: Which of `clips_per_video` equal parts of the video the clip lies in.
            place: Of the clip in the part, in [0, 1).
        """
        opened, config = self.sources[source], self.config
        step = frame_step(config.all_sources[source], config, float(opened.fps_each[video]))
        part_frames = int(opened.num_frames_each[video]) // config.clips_per_video
        frames = clip_frames(part_frames, step, int(self.sampler.num_frames_of[source]), place)
        return frames + part * part_frames
