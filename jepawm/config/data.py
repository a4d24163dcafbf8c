"""The section `data`: where episodes come from and how windows are cut from them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jepawm.config.checks import fraction, not_negative, positive
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Where episodes come from and how windows are cut from them."""

    section: ClassVar[str] = "data"

    source: Literal["collect", "dataset", "convert"] = "collect"
    """`collect`: run a policy in the environment; `dataset`: a folder in the episode format; `convert`: a published or
    recorded dataset in another format (see `jepawm data convert`), converted once."""
    path: str | None = None
    """The dataset folder (`dataset`), what is converted (`convert`), or the folder to collect into (`collect`; None:
    one named after all that its episodes depend on)."""
    format: str = "auto"
    """Format of what is converted, as `jepawm data convert --from` knows it; `auto`: recognised by its files."""
    statistics: Literal["train_split", "published"] = "train_split"
    """What actions and proprio are normalised with: the training episodes' own mean and deviation, or the constants
    published with a converted dataset."""
    action_mean: tuple[float, ...] = ()
    """Mean of each raw action dimension to normalise with, e.g. 0 0; empty: as `statistics` says."""
    action_std: tuple[float, ...] = ()
    """Deviation of each raw action dimension to normalise with, which is also the unit of a planner's search; empty: as
    `statistics` says."""
    proprio_mean: tuple[float, ...] = ()
    """The same for proprio."""
    proprio_std: tuple[float, ...] = ()
    """The same for proprio."""
    policy: str = "wall_mixed_walk"
    """Data-collection policy (`collect`): a name in `envs.policies`, `uniform` for the action space's own sampler,
    `random_walk` for random actions that are held (environments that are adapted), or `auto` for the environment's
    usual policy."""
    num_episodes: int | None = 1920
    """Episodes to collect or convert; None: all there are to convert."""
    env_steps_per_episode: int = 50
    """Environment steps in one collected episode."""
    env_steps_per_frame: int = 1
    """Environment steps between two frames that are kept (`collect`); `frameskip` is a multiple of it. With `frameskip`
    itself, frames are drawn and kept at chunk boundaries alone."""
    codec: Literal["zstd", "png", "jpeg", "raw"] = "zstd"
    """How frames lie in the shards: `zstd` or `png` (lossless), `jpeg` (quality 95, for cameras), `raw`."""
    frameskip: int = 5
    """Environment steps per model step; an action chunk holds that many actions."""
    num_frames_in_window: int = 4
    """Frames in a training window."""
    held_out_fraction: float = 0.05
    """Share of whole episodes kept from training, for diagnostics and held-out evaluation."""
    train_fraction: float = 1.0
    """Share of the other episodes that are trained on, in (0, 1]. Which ones depends on the seed alone, and a smaller
    share is a part of a larger one; held-out episodes stay the same."""
    loader: Literal["auto", "cache", "shards", "stream"] = "auto"
    """`cache`: decode once into a node-local memory map; `shards`: decode the frames of each window as it is asked for;
    `stream`: Ray Data reads shards and streams windows (needs Ray); `auto`: `cache` while the decoded dataset stays
    under `cache_limit_gib`, else `stream` (`shards` with `--local`)."""
    features: Literal["encode", "stored"] = "encode"
    """What windows hold: `encode`: frames, which the model encodes; `stored`: features that a frozen encoder made of
    them once (`jepawm encode`; a run that finds none makes them)."""
    features_dtype: Literal["float16", "float32"] = "float16"
    """Numbers of stored features: half precision, or as the encoder computes them."""
    cache_limit_gib: float = 8.0
    """Largest decoded dataset that `auto` caches, GiB."""
    allow_actions_out_of_bounds: bool = False
    """Train on recordings whose actions lie far outside the environment's bounds."""

    def __post_init__(self) -> None:
        positive(self, "env_steps_per_episode", "env_steps_per_frame", "frameskip", "cache_limit_gib")
        fraction(self, "held_out_fraction")
        if not 0 < self.train_fraction <= 1:
            raise ConfigError(f"data.train_fraction must lie in (0, 1], found {self.train_fraction}")
        if self.num_frames_in_window < 2:
            raise ConfigError(
                f"data.num_frames_in_window must be at least 2 (a frame and its successor), "
                f"found {self.num_frames_in_window}"
            )
        not_negative(self, "num_episodes")
        if self.features == "stored" and self.loader == "stream":
            raise ConfigError("data.loader 'stream' streams frames; leave it 'auto' with data.features 'stored'")
        for name in ("action_std", "proprio_std"):
            if any(not value > 0 for value in getattr(self, name)):
                raise ConfigError(f"data.{name} must be above 0 in every dimension, found {list(getattr(self, name))}")
        for name in ("frameskip", "env_steps_per_episode"):
            if self.source == "collect" and getattr(self, name) % self.env_steps_per_frame:
                raise ConfigError(
                    f"data.{name} must be a multiple of data.env_steps_per_frame ({self.env_steps_per_frame}), for no "
                    f"other frames are kept; found {getattr(self, name)}"
                )

    @property
    def planned_frames(self) -> int:
        """Frames of the episodes that are to be collected, at most: an environment may end an episode earlier."""
        return (self.num_episodes or 0) * (self.env_steps_per_episode // self.env_steps_per_frame + 1)
