"""What the trainings of all heads share: what an update sees, and what a kind has to say."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from jepawm.config.head import HeadConfig
from jepawm.config.tagged import import_object
from jepawm.heads import HeadShape, build_head
from jepawm.latent import Latent
from jepawm.training.latent_episodes import Kept, LatentEpisodes

Terms = dict[str, Tensor]

MEASURED_ROWS = 1024
"""Most held-out frames, or pairs of frames, that a head is measured on."""


@dataclass(frozen=True)
class HeadBatch:
    """What one update sees: frames, or pairs of frames.

    Attributes:
        now: Latents `[B]`.
        goal: Latents `[B]` of the goals, or None.
        steps: `[B]` model steps to the goals, float32; for goals of other episodes the horizon. None without goals.
        same_episode: `[B]` whether the goal was reached from now. None without goals.
        pixels: `[B,3,Y,X]` uint8 frames, or None.
        states: `[B,S]` simulator states, or None.
        chunks: `[B,A]` normalised action chunks from now on, or None.
    """

    now: Latent
    goal: Latent | None = None
    steps: Tensor | None = None
    same_episode: Tensor | None = None
    pixels: Tensor | None = None
    states: Tensor | None = None
    chunks: Tensor | None = None


class HeadTask(nn.Module, ABC):
    """A head with what only its training needs.

    Args:
        config: Which head, and its settings.
        shape: Widths that it reads and gives.

    Attributes:
        kept: What is kept beside visual latents.
        head: What is trained.
    """

    kept: ClassVar[frozenset[Kept]] = frozenset()

    def __init__(self, config: HeadConfig, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        self.head = build_head(config, shape)

    def prepare(self, episodes: LatentEpisodes) -> None:
        """Takes scales from the training episodes."""

    def draw(self, episodes: LatentEpisodes, batch_size: int, generator: torch.Generator) -> HeadBatch:
        """Frames, uniform over all episodes."""
        return self.batch(episodes, torch.randint(len(episodes), (batch_size,), generator=generator))

    def batch(self, episodes: LatentEpisodes, rows: Tensor) -> HeadBatch:
        """Chosen frames."""
        rows = rows.to(episodes.latents.visual.device)
        pixels, states, chunks = (
            None if part is None else part[rows] for part in (episodes.pixels, episodes.states, episodes.chunks)
        )
        return HeadBatch(episodes.latents[rows], pixels=pixels, states=states, chunks=chunks)

    @abstractmethod
    def losses(self, batch: HeadBatch) -> Terms:
        """Scalars: `loss`, and its terms before their weights."""

    @abstractmethod
    def measure(self, episodes: LatentEpisodes, generator: torch.Generator) -> dict[str, float]:
        """Metrics on held-out episodes, by name."""

    def finish(self) -> nn.Module:
        """The trained head, as it is saved."""
        return self.head


def build_task(config: HeadConfig, shape: HeadShape) -> HeadTask:
    """The training of the head that a configuration names.

    Raises:
        ConfigError: Settings that do not fit the shape.
    """
    task: HeadTask = import_object(config.task, "head.name")(config, shape)
    return task


def task_class(config: HeadConfig) -> type[HeadTask]:
    """The class of a head's training, which says what it needs of the episodes."""
    found: type[HeadTask] = import_object(config.task, "head.name")
    return found
