"""The protocol of mask strategies, and what goes in and out of one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

Cue = Literal["pixels", "features"]


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of a clip. A token's id is `(time * rows + row) * columns + column`.

    Attributes:
        times: Token times, i.e. frames over frames of a token.
        rows: Patches from top to bottom.
        columns: Patches from left to right.
    """

    times: int
    rows: int
    columns: int

    @property
    def num_places(self) -> int:
        """Tokens `S` of one time."""
        return self.rows * self.columns

    @property
    def num_tokens(self) -> int:
        """Tokens of the clip."""
        return self.times * self.num_places


@dataclass(frozen=True)
class MaskSet:
    """One division of each clip's tokens: what the encoder sees, and what is predicted.

    Attributes:
        context_BL: `[B,L]` int64 ids of tokens that the encoder sees, ascending.
        target_BM: `[B,M]` int64 ids of tokens to predict, ascending; none is in the context.
        lost_targets: Share of the whole batch's targets that truncation to the shortest list took, over all workers.
        lost_context: The same of the context.
    """

    context_BL: Int[Tensor, "B L"]
    target_BM: Int[Tensor, "B M"]
    lost_targets: float = 0.0
    lost_context: float = 0.0

    def to(self, device: torch.device | str) -> "MaskSet":
        """The same ids on a device."""
        return replace(self, context_BL=self.context_BL.to(device), target_BM=self.target_BM.to(device))


@dataclass(frozen=True)
class Cues:
    """What a strategy may look at, of this worker's clips.

    Attributes:
        pixels_BTCYX: `[B,T,C,Y,X]` uint8 frames, as they are encoded.
        features_BLD: `[B,L,D]` the teacher's tokens of the whole clip, normalised over `D`.
    """

    pixels_BTCYX: UInt8[Tensor, "B T C Y X"] | None = None
    features_BLD: Float[Tensor, "B L D"] | None = None


class MaskStrategy(nn.Module, ABC):
    """Divides the tokens of clips into context and targets.

    Args:
        config: Its section.
        latent_dim: Width `D` of the teacher's tokens.

    Attributes:
        num_sets: Mask sets that each clip is shown under.
        needs: Which cues `draw` reads; it ignores others.
    """

    num_sets: int
    needs: frozenset[Cue] = frozenset()

    def __init__(self, config: Any, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.num_sets = len(config.sets)

    @abstractmethod
    def draw(
        self,
        grid: TokenGrid,
        *,
        num_clips: int,
        rows: slice,
        counter: int,
        generator: torch.Generator,
        cues: Cues,
    ) -> tuple[MaskSet, ...]:
        """Draws the masks of one group of clips of equal length.

        Every worker draws for all clips from an equal generator and keeps its own rows, so the masks do not depend on
        the number of workers. No gradient flows through a draw.

        Args:
            grid: Tokens of each clip.
            num_clips: Clips of the group in the whole batch, over all workers.
            rows: This worker's clips among them.
            counter: How often a group of this length was drawn before; the published block size depends on it alone.
            generator: Everything random, at the same state on every worker; a CPU generator.
            cues: Of this worker's clips.

        Returns:
            `num_sets` sets of this worker's clips, on the CPU. Lengths are equal in the whole batch.

        Raises:
            ConfigError: The grid is too small for the shares, or a cue of `needs` is missing.
        """
