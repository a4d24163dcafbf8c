"""The job of `jepawm counterfactual`: what a model imagines under actions made by hand."""

from dataclasses import dataclass, field
from typing import ClassVar

from jepawm.config.checks import not_negative, positive
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class ClipDataConfig:
    """Which dataset a clip comes from."""

    section: ClassVar[str] = "counterfactual.data"

    path: str | None = None
    """Dataset of the clip, and of nearest frames; None: the episodes that the model was trained on."""


@dataclass(frozen=True)
class CounterfactualJob:
    """Unrolls hand-made actions from one moment, and shows what the model imagines beside each other."""

    section: ClassVar[str] = "counterfactual"

    model: str = ""
    """A run, or a model folder such as RUN/model."""
    actions: str = ""
    """The YAML file of branches."""
    data: ClipDataConfig = field(default_factory=ClipDataConfig)
    episode: int | None = None
    """Episode of the clip; by default the first held-out one."""
    frame: int = 0
    """The present: a frame of the episode, or the number of a picture of `observation`."""
    context_frames: int = 1
    """Frames that the model sees before it imagines, a model step apart, the present last; at most its
    `context_window`."""
    observation: str | None = None
    """In place of an episode: a picture, a folder of pictures, or a .npz with `pixels` (and `proprio`, where the model
    reads it)."""
    head: str | None = None
    """Head that draws; by default the first one that can. Without any, the nearest training frames are shown."""
    nearest: bool = False
    """Show nearest frames, also where a head draws."""
    nearest_frames: int = 512
    """Recorded frames among which the nearest ones are sought, where no head draws: of training episodes, or, where
    those are not here, of the other episodes of `data.path`."""
    output: str | None = None
    """Folder of the page, the numbers and the animation; by default a new one beside the evaluations."""
    mp4: bool = False
    """Also write the animation as counterfactual.mp4."""
    device: str = "auto"
    """`auto` (cuda, mps, cpu in this order) or a torch device."""

    def __post_init__(self) -> None:
        not_negative(self, "frame")
        positive(self, "context_frames", "nearest_frames")
        if self.nearest and self.head is not None:
            raise ConfigError("--nearest shows recorded frames and --head what a head draws: leave one of them out")
        if self.observation is not None and self.episode is not None:
            raise ConfigError("--observation is in place of an episode: leave out --episode")
        if self.observation is not None and self.context_frames > 1:
            raise ConfigError(
                "--context-frames above 1 needs the actions between the frames, which --observation does not have; "
                "take a clip of a dataset"
            )
