"""What every predictor is to the world model."""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config import PredictorConfig
from jepawm.errors import ConfigError

ProprioEncoding = Literal["none", "feature", "token"]

# Two channels for each of three axes.
_LEAST_ROTARY = 6

Predicted = tuple[Tensor, Tensor | None]
"""Predicted visual tokens and, where the predictor predicts it, proprio."""


class Predictor(nn.Module):
    """Latents and normalised action chunks to the latents one model step later.

    `forward(visual_BTPD, actions_BTA, proprio_BTQE, last_only=False)`: entry `t` predicts frame `t + 1` from the frames
    and chunks up to `t`. With `last_only` the last frame's successor alone is computed and returned, `T = 1`.

    Attributes:
        context_window: Frames that an unroll shows it at most.
    """

    context_window: int

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


def check_window(visual_BTPD: Tensor, *, patches: int, width: int) -> None:
    """Answers tokens of another grid or width than the predictor was built for.

    Raises:
        ConfigError: Names what was expected and found.
    """
    found = tuple(visual_BTPD.shape[2:])
    if found != (patches, width):
        raise ConfigError(f"the predictor takes visual latents [B,T,P,D] with P, D = {patches}, {width}, found {found}")


def check_proprio(proprio_BTQE: Tensor | None, *, tokens: int, width: int) -> None:
    """Answers proprio that is missing, not wanted, or of another width.

    Args:
        proprio_BTQE: What was given.
        tokens: Tokens `Q` expected; 0: none.
        width: Width `E` expected.

    Raises:
        ConfigError: Names what was expected and found.
    """
    found = None if proprio_BTQE is None else tuple(proprio_BTQE.shape[2:])
    expected = (tokens, width) if tokens else None
    if found != expected:
        raise ConfigError(f"the predictor takes proprio latents [B,T,Q,E] with Q, E = {expected}, found {found}")


def over_patches(features_BTE: Float[Tensor, "B T E"], patches: int) -> Float[Tensor, "B T P E"]:
    """Repeats a frame's features at each of its patches."""
    return features_BTE.unsqueeze(2).expand(-1, -1, patches, -1)


class PatchPredictor(Predictor):
    """A predictor over the patches of frames, which may also see proprio.

    Args:
        config: `context_window`, and heads and their width.
        grid: Rows and columns of patches.
        latent_dim: Width `D` of a visual token.
        proprio: How proprio enters.
        proprio_dim: Width `E` of the proprio latent; unused with `none`.

    Attributes:
        proprio_tokens: Proprio tokens `Q` of a frame; 0: none.
        proprio_dim: Their width; 0 without proprio.
        as_feature: Whether proprio is a feature of every patch.
    """

    def __init__(
        self,
        config: PredictorConfig,
        *,
        grid: tuple[int, int],
        latent_dim: int,
        proprio: ProprioEncoding,
        proprio_dim: int,
    ) -> None:
        super().__init__()
        self.context_window = config.context_window
        self.grid, self.num_patches, self.latent_dim = grid, grid[0] * grid[1], latent_dim
        self.proprio_tokens = {"none": 0, "token": 1, "feature": self.num_patches}[proprio]
        self.proprio_dim = proprio_dim if proprio != "none" else 0
        self.as_feature = proprio == "feature"

    def _check(self, visual_BTPD: Tensor, proprio_BTQE: Tensor | None) -> None:
        check_window(visual_BTPD, patches=self.num_patches, width=self.latent_dim)
        check_proprio(proprio_BTQE, tokens=self.proprio_tokens, width=self.proprio_dim)


def head_width(config: PredictorConfig, width: int, *, rotary: bool) -> int:
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
