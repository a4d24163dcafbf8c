"""What every predictor is to the world model."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.predictor import PredictorConfig, TransformerPredictorConfig
from jepawm.errors import ConfigError
from jepawm.types import LatentSpec

# Two channels for each of three axes.
_LEAST_ROTARY = 6

Predicted = tuple[Tensor, Tensor | None]
"""Predicted visual tokens and, where the predictor predicts it, proprio."""


class Predictor(nn.Module, ABC):
    """Latents and normalised action chunks to the latents one model step later.

    A subclass says in `successors` what is computed; `forward` checks the shapes that it is given.

    Args:
        config: Of the predictor.
        latents: Shapes of the latents and action chunks.

    Attributes:
        casts_inputs: Whether the predictor takes inputs in another number format than its weights'. Planning in
            bfloat16 then casts the weights once; else each forward pass runs under autocast.
        context_window: Frames that an unroll shows it at most.
        latents: Shapes of the latents and action chunks.
    """

    casts_inputs: ClassVar[bool] = False

    def __init__(self, config: PredictorConfig, latents: LatentSpec) -> None:
        super().__init__()
        self.context_window = config.context_window
        self.latents = latents

    def __call__(
        self,
        visual_BTPD: Float[Tensor, "B T P D"],
        actions_BTA: Float[Tensor, "B T A"],
        proprio_BTQE: Float[Tensor, "B T Q E"] | None = None,
        *,
        last_only: bool = False,
    ) -> Predicted:
        result: Any = super().__call__(visual_BTPD, actions_BTA, proprio_BTQE, last_only=last_only)
        return result

    def forward(
        self,
        visual_BTPD: Float[Tensor, "B T P D"],
        actions_BTA: Float[Tensor, "B T A"],
        proprio_BTQE: Float[Tensor, "B T Q E"] | None = None,
        *,
        last_only: bool = False,
    ) -> Predicted:
        """Predicts the successor of every frame.

        Args:
            visual_BTPD: `[B,T,P,D]` visual tokens of `T` frames, a model step apart.
            actions_BTA: `[B,T,A]` normalised chunks; chunk `t` leads from frame `t` to frame `t + 1`.
            proprio_BTQE: `[B,T,Q,E]` proprio latents, for predictors that see them.
            last_only: Compute the last frame's successor alone, which is then the one returned.

        Returns:
            `[B,T,P,D]` float32 (`T = 1` with `last_only`), where entry `t` predicts frame `t + 1` from the frames and
            chunks up to `t`; and the same of proprio, or None where the predictor does not predict it.

        Raises:
            ConfigError: Tokens or proprio of another shape than the predictor was built for, or more frames than its
                position table holds.
        """
        self.check_shapes(visual_BTPD, proprio_BTQE)
        return self.successors(visual_BTPD, actions_BTA, proprio_BTQE, last_only=last_only)

    @abstractmethod
    def successors(
        self, visual_BTPD: Tensor, actions_BTA: Tensor, proprio_BTQE: Tensor | None, *, last_only: bool
    ) -> Predicted:
        """What `forward` returns, for inputs of the right shapes."""

    def check_shapes(self, visual_BTPD: Tensor, proprio_BTQE: Tensor | None) -> None:
        """Refuses latents of another shape than the predictor was built for.

        Raises:
            ConfigError: Names what was expected and found.
        """
        expected = (self.latents.num_patches, self.latents.dim)
        found = tuple(visual_BTPD.shape[2:])
        if found != expected:
            raise ConfigError(
                f"the predictor takes visual latents [B,T,P,D] with P, D = {expected[0]}, {expected[1]}, found {found}"
            )
        tokens = self.latents.num_proprio_tokens
        wanted = (tokens, self.latents.proprio_dim) if tokens else None
        given = None if proprio_BTQE is None else tuple(proprio_BTQE.shape[2:])
        if given != wanted:
            raise ConfigError(f"the predictor takes proprio latents [B,T,Q,E] with Q, E = {wanted}, found {given}")


def over_patches(features_BTE: Float[Tensor, "B T E"], patches: int) -> Float[Tensor, "B T P E"]:
    """Repeats a frame's features at each of its patches."""
    return features_BTE.unsqueeze(2).expand(-1, -1, patches, -1)


def check_position_table(num_frames: int, table_frames: int) -> None:
    """Refuses a window that is longer than a learned position table.

    Raises:
        ConfigError: Names the setting that makes the table longer.
    """
    if num_frames > table_frames:
        raise ConfigError(
            f"a window of {num_frames} frames is longer than the learned position table ({table_frames}); raise "
            "model.predictor.num_positions"
        )


def head_width(config: TransformerPredictorConfig, width: int, *, rotary: bool) -> int:
    """Width of an attention head: as configured, else an equal share of the tokens' width.

    Raises:
        ConfigError: The width cannot be shared equally, or is too small to be turned along three axes.
    """
    if not config.head_dim and width % config.num_heads:
        raise ConfigError(
            f"model.predictor: {width} channels (embed_dim, and features of proprio and action) do not divide into "
            f"{config.num_heads} heads; change num_heads or these widths, or give head_dim"
        )
    found = config.head_dim or width // config.num_heads
    if rotary and found < _LEAST_ROTARY:
        raise ConfigError(
            f"model.predictor: heads of {found} channels are too narrow for rotary positions over time, row and "
            f"column, which need {_LEAST_ROTARY}; lower num_heads, or give head_dim"
        )
    return found
