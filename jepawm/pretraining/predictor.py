"""The predictor of mask-denoising: what the teacher would say of the patches that the encoder did not see."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.pretraining_model import MaskPredictorConfig
from jepawm.encoders.vjepa_files import published_name
from jepawm.errors import CheckpointError, ConfigError, did_you_mean
from jepawm.nn import weights
from jepawm.nn.embeddings import sincos_3d
from jepawm.nn.rotary import Pairing, frame_rotary_table
from jepawm.nn.transformer import Block, init_transformer_
from jepawm.pretraining.masks import MaskSet, TokenGrid

_EPS = 1e-6
_VECTOR_STD = 1e-6


class MaskPredictor(nn.Module):
    """Predicts the tokens of masked patches from those of the visible ones.

    Masked places enter as one learned token; every token knows its place by rotary embedding over time, row and column,
    or, as in V-JEPA 1, by a fixed sine and cosine that is added. No parameter depends on the size of the clips: the
    token grid is an argument of each call, so one predictor serves every stage of a progressive resolution.

    The published module sorts its tokens by place first. Attention without a mask does not know their order, so they
    are taken as they come here, with the same result.

    Args:
        latent_dim: Width `D` of the encoder's tokens.
        config: Widths, blocks and number of mask tokens.
        num_levels: Levels `K` of the encoder that enter side by side and are predicted.
        positions: Of the tokens: rotary, or the added table.
        rotary_pairing: As the encoder's, see `jepawm.nn.rotary.rotary_table`.
        rotary_span: As the encoder's, see `jepawm.nn.rotary.frame_rotary_table`.
        predicts_context: Whether visible tokens are predicted too, by an output map of their own.
        takes_images: Whether images and videos are told apart by a vector that is added to every token.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 2.
    """

    def __init__(
        self,
        latent_dim: int,
        config: MaskPredictorConfig | None = None,
        *,
        num_levels: int = 1,
        positions: Literal["rotary", "table"] = "rotary",
        rotary_pairing: Pairing = "published",
        rotary_span: float | None = None,
        predicts_context: bool = False,
        takes_images: bool = False,
    ) -> None:
        super().__init__()
        self.config = config = config or MaskPredictorConfig()
        width, out_dim = config.embed_dim, num_levels * latent_dim
        self.head_dim = width // config.num_heads
        self.uses_table = positions == "table"
        self.rotary_pairing: Pairing = rotary_pairing
        self.rotary_span = rotary_span
        self.embed: nn.Module = nn.Linear(latent_dim, width)
        if num_levels > 1:
            self.embed = nn.Sequential(nn.Linear(out_dim, latent_dim), nn.GELU(), nn.Linear(latent_dim, width))
        # One parameter each: a token without a gradient is neither moved nor decayed.
        self.mask_tokens = nn.ParameterList(
            nn.Parameter(torch.zeros(1, 1, width)) for _ in range(config.num_mask_tokens)
        )
        self.takes_images = takes_images
        if takes_images:
            self.image_vector, self.video_vector = (
                nn.Parameter(_VECTOR_STD * torch.randn(1, 1, width)) for _ in range(2)
            )
        hidden_dim = round(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, config.num_heads, hidden_dim, eps=_EPS) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.proj = nn.Linear(width, out_dim)
        self.proj_context = nn.Linear(width, out_dim) if predicts_context else None
        init_transformer_(self, self.blocks)

    def forward(
        self,
        context_BLE: Float[Tensor, "B L E"],
        masks: MaskSet,
        grid: TokenGrid,
        *,
        mask_token: int = 0,
        images: bool = False,
    ) -> tuple[Float[Tensor, "B M E"], Float[Tensor, "B L E"] | None]:
        """Predicts the target tokens, and the visible ones where the predictor was built for that.

        Args:
            context_BLE: `[B,L,K*D]` the encoder's tokens of the visible patches.
            masks: Their places, and the places to predict.
            grid: Token grid of the clips.
            mask_token: Which of the learned tokens stands for the masked patches, from 0.
            images: Whether the clips are single images.

        Returns:
            `[B,M,K*D]` predicted tokens in the order of `masks.target_BM`; `[B,L,K*D]` predictions of the visible
            tokens, or None.

        Raises:
            ConfigError: `mask_token` is none of the predictor's.
        """
        if not 0 <= mask_token < len(self.mask_tokens):
            raise ConfigError(
                f"mask_token must lie in [0, {len(self.mask_tokens)}), found {mask_token}; model.predictor."
                "num_mask_tokens must be at least the number of frame counts"
            )
        context = self.embed(context_BLE)
        L, M = masks.context_BL.shape[1], masks.target_BM.shape[1]
        masked = self.mask_tokens[mask_token].to(context.dtype).expand(len(context), M, -1)
        x = torch.cat([context, masked], dim=1)
        index_BN = torch.cat([masks.context_BL, masks.target_BM], dim=1)
        if self.takes_images:
            x = x + (self.image_vector if images else self.video_vector).to(x.dtype)
        rotary = None
        if self.uses_table:
            x = x + _table(x.shape[-1], grid, x.device)[index_BN].to(x.dtype)
        else:
            table = frame_rotary_table(
                *(self.head_dim, grid.times, (grid.rows, grid.columns), 0, self.rotary_pairing, x.device),
                span=self.rotary_span,
            )
            rotary = table.rows(index_BN[:, None])
        for block in self.blocks[:-1]:
            x = block(x, rotary=rotary)
        if self.proj_context is None:
            return self.proj(self.norm(self.blocks[-1](x, rotary=rotary, num_queries=M))), None
        context, masked = self.norm(self.blocks[-1](x, rotary=rotary)).split([L, M], dim=1)
        return self.proj(masked), self.proj_context(context)


@lru_cache(maxsize=16)
def _table(dim: int, grid: TokenGrid, device: torch.device) -> Tensor:
    """`[L,dim]` sines and cosines of all places of a grid."""
    with torch.inference_mode(False):
        return sincos_3d(dim, (grid.times, grid.rows, grid.columns)).flatten(0, 2).to(device)


def load_mask_predictor(predictor: MaskPredictor, source: str) -> None:
    """Loads the predictor of a file of the V-JEPA 2 release, strictly.

    Args:
        predictor: Changed in place.
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.

    Raises:
        CheckpointError: The file is missing or damaged, has no predictor, or does not fit.
    """
    hint = "take vitl.pt, vith.pt, vitg.pt or vitg-384.pt from the V-JEPA 2 release (dl.fbaipublicfiles.com/vjepa2)"
    path = weights.locate(source, hint=hint)
    found = weights.read_tensors(path)
    if "predictor" not in found:
        raise CheckpointError(f"{path} has no 'predictor'{did_you_mean('predictor', [str(key) for key in found])}")
    where = f"{path} (predictor)"
    tensors = predictor_from_published(weights.only_tensors(found["predictor"], where))
    # A table of the released files: rotary embedding has no use for it, and the added one is computed.
    cause = "are the widths, depth and number of mask tokens the file's?"
    weights.load_strict(predictor, tensors, where, ignored={"pos_embed"}, cause=cause)


def predictor_from_published(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the release by the names of `MaskPredictor`."""
    return {published_name(key).removeprefix("predictor_"): value for key, value in found.items()}
