"""The section `clips`: which videos are drawn from, how clips are cut from them, and how their frames are changed."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import positive, unread_by
from jepawm.errors import ConfigError

FRAMES_PER_S = 4.0
"""The published rate of a clip's frames."""


@dataclass(frozen=True)
class ClipSourceConfig:
    """One folder of videos or episodes."""

    section: ClassVar[str] = "clips.sources"

    path: str
    """A dataset folder in the episode format, or a folder of video files or pictures, with folders in it."""
    kind: Literal["auto", "dataset", "videos", "pictures"] = "auto"
    """`dataset`: the episode format, an episode is a video; `videos`: video files; `pictures`: each picture is a video
    of one frame, which is repeated; `auto`: recognised by its files."""
    weight: float | None = None
    """Share of the draws that this source gets, over the sum of all weights; within a source each video is drawn
    equally often. None for all sources: every video of all of them once per epoch."""
    num_frames: int | None = None
    """Frames of a clip; None: those of the stage. Clips of another number of frames form a group of their own."""
    fps: float | None = None
    """Frames per second of a clip; None, without `frame_step` as well: as `clips` says."""
    frame_step: int | None = None
    """Recorded frames from one frame of a clip to the next, whatever the rate; None: from `fps`."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("clips.sources.path is empty; name a folder of videos or of episodes")
        positive(self, "weight", "num_frames", "fps", "frame_step")
        if self.fps is not None and self.frame_step is not None:
            raise ConfigError(
                f"{self.path}: clips.sources.fps ({self.fps:g}) and frame_step ({self.frame_step}) both say how far "
                "the frames of a clip are apart; leave one out"
            )


@dataclass(frozen=True)
class AugmentConfig:
    """How the frames of a clip are changed: one crop and one flip for all of them."""

    section: ClassVar[str] = "clips.augment"

    crop: bool = True
    """Cut out a random rectangle, and resize it to the size of the stage; false: the largest square in the middle."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Smallest and largest area of the rectangle, as a share of the frame's."""
    crop_aspect: tuple[float, float] = (0.75, 1.35)
    """Smallest and largest width of the rectangle, in units of its height; drawn log-uniformly."""
    flip: bool = True
    """Mirror every other clip, at random. An encoder then cannot tell left from right by its training; pixels alone
    are trained on, so no action is wrong after it."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ConfigError(f"clips.augment.crop_scale must be a range in (0, 1], found {low:g} to {high:g}")
        low, high = self.crop_aspect
        if not 0 < low <= high:
            raise ConfigError(f"clips.augment.crop_aspect must be a range above 0, found {low:g} to {high:g}")


@dataclass(frozen=True)
class ClipsConfig:
    """Where clips come from. Frames of a clip, image size and batch size belong to the stage of a pretraining."""

    section: ClassVar[str] = "clips"

    paths: tuple[str, ...] = ()
    """Folders of episodes, videos or pictures, with the settings below; the short form of `sources`."""
    sources: tuple[ClipSourceConfig, ...] = ()
    """Folders with settings of their own, such as a weight."""
    fps: float | None = FRAMES_PER_S
    """Frames per second of a clip. The published rule: the rate of the video, rounded up, divided by `fps` and rounded
    down, is the distance of two frames, at least one frame."""
    frame_step: int | None = None
    """Recorded frames from one frame of a clip to the next, whatever the rate of the video; `fps` is null then."""
    clips_per_video: int = 1
    """Clips that a drawn video gives to a batch, each from its own part of the video."""
    held_out_fraction: float = 0.0
    """Share of each source's videos that no clip is cut from, e.g. to probe the encoder on. Of a dataset, the same
    episodes as `data.held_out_fraction` holds out with the same seed."""
    unreadable: Literal["error", "skip"] = "error"
    """What happens to video files that cannot be read: an error names them, or a warning does and they are left out."""
    loader: Literal["auto", "cache", "files", "stream"] = "auto"
    """`files`: threads of the trainer decode; `cache`: datasets are decoded once into a node-local memory map (video
    files are not); `stream`: Ray Data decodes on the cluster; `auto`: `cache` for datasets whose frames fit under
    `cache_limit_gib`, else `files`."""
    cache_limit_gib: float = 8.0
    """Largest decoded dataset that `auto` caches, GiB."""
    num_threads: int | None = None
    """Threads that read and augment clips in a training worker; None: as many as PyTorch uses there."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        positive(self, "fps", "frame_step", "clips_per_video", "cache_limit_gib", "num_threads")
        if not 0 <= self.held_out_fraction < 1:
            raise ConfigError(f"clips.held_out_fraction must lie in [0, 1), found {self.held_out_fraction}")
        if (self.fps is None) == (self.frame_step is None):
            raise ConfigError(
                f"one of clips.fps and clips.frame_step says how far the frames of a clip are apart, the other is "
                f"null; found {self.fps} and {self.frame_step}"
            )
        weighted = [source.weight is not None for source in self.all_sources]
        if any(weighted) and not all(weighted):
            without = self.all_sources[weighted.index(False)].path
            raise ConfigError(
                f"clips: some sources have a weight and {without} has none; give all of them one, or none"
            )
        if self.loader == "stream":
            unread_by(self, "num_threads", "clips.loader 'stream'")

    @property
    def all_sources(self) -> tuple[ClipSourceConfig, ...]:
        """The folders of `paths`, then those of `sources`."""
        return (*map(ClipSourceConfig, self.paths), *self.sources)

    @property
    def is_weighted(self) -> bool:
        """Whether videos are drawn with replacement by weight; otherwise each comes once per epoch."""
        return any(source.weight is not None for source in self.all_sources)
