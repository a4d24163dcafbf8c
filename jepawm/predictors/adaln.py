"""A transformer over frames whose normalisations the action modulates."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.config.predictor import AdaLNPredictorConfig
from jepawm.errors import ConfigError
from jepawm.nn.attention import KeyValue
from jepawm.nn.precision import at_least_float32, like_weights
from jepawm.nn.projector import Projector
from jepawm.nn.rotary import frame_rotary_table
from jepawm.nn.transformer import AdaptiveBlock, init_transformer_
from jepawm.predictors.base import Predicted, check_position_table, head_width
from jepawm.predictors.causal import ActionCodes, CausalPredictor, Prefix, past_of
from jepawm.types import LatentSpec

# LeWM first maps a chunk to ten features, whatever its width.
_ACTION_FEATURES = 10


class AdaLNPredictor(CausalPredictor):
    """Frames attend to themselves and to those before them; each frame's action shifts, scales and gates its tokens.

    The prediction is the next latent itself, not a difference. A proprio feature rides on every patch token, a proprio
    token stands in front of each frame; either comes back as the last normalisation leaves it.

    Args:
        config: Widths, depth, positions.
        latents: Shapes of the latents and action chunks.

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497; with learned positions, Maes et al. 2026, LeWM.
    """

    def __init__(self, config: AdaLNPredictorConfig, latents: LatentSpec) -> None:
        super().__init__(config, latents)
        latent_dim, action_dim = latents.dim, latents.chunk_dim
        self.embed_dim = config.token_width(latent_dim)
        self.proprio_is_feature = latents.proprio == "feature"
        self.width = self.embed_dim + (latents.proprio_dim if self.proprio_is_feature else 0)
        if latents.proprio == "token" and latents.proprio_dim != self.width:
            raise ConfigError(
                f"a proprio token must be as wide as the predictor's tokens ({self.width}), found {latents.proprio_dim}"
            )
        self.head_dim = head_width(config, self.width, rotary=config.position == "rotary")
        self.pairing = config.rotary_pairing
        if not config.input_projection and self.embed_dim != latent_dim:
            raise ConfigError(
                f"model.predictor.embed_dim must be None or the latent width {latent_dim} without an input_projection, "
                f"found {config.embed_dim}"
            )
        self.embed: nn.Module = nn.Linear(latent_dim, self.embed_dim) if config.input_projection else nn.Identity()
        if config.action_dims:
            self.action: nn.Module = nn.Sequential(
                nn.Linear(action_dim, _ACTION_FEATURES),
                nn.Linear(_ACTION_FEATURES, config.action_dims),
                nn.SiLU(),
                nn.Linear(config.action_dims, self.width),
            )
        else:
            self.action = nn.Linear(action_dim, self.width)
        self.positions: nn.Parameter | None = None
        if config.longest_window is not None:
            self.positions = nn.Parameter(torch.zeros(config.longest_window, 1, self.width))
        hidden = config.mlp_dim or 4 * self.width
        self.blocks = nn.ModuleList(
            AdaptiveBlock(
                self.width,
                config.num_heads,
                hidden,
                head_dim=self.head_dim,
                qkv_bias=config.qkv_bias,
                dropout=config.dropout,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        self.project: nn.Module = nn.Linear(self.embed_dim, latent_dim)
        if config.projector_dim:
            self.project = Projector(self.embed_dim, config.projector_dim, latent_dim)
        init_transformer_(self, self.blocks, modulation_std=config.modulation_std)
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)

    def encode_actions(self, actions_BTA: Tensor) -> ActionCodes:
        condition_BTD = F.silu(self.action(like_weights(actions_BTA, self.action)))
        return tuple(block.modulate(condition_BTD) for block in cast("Sequence[AdaptiveBlock]", self.blocks))

    def extend(
        self,
        visual_BTPD: Tensor,
        actions: ActionCodes,
        proprio_BTQE: Tensor | None,
        past: Prefix | None,
        *,
        last_only: bool,
        keep: bool = False,
    ) -> tuple[Predicted, Prefix | None]:
        before, known = past_of(past, len(self.blocks))
        T = before + visual_BTPD.shape[1]
        x_BTSD = self.embed(like_weights(visual_BTPD, self.norm))
        if proprio_BTQE is not None:
            parts = [x_BTSD, proprio_BTQE.to(x_BTSD.dtype)]
            x_BTSD = torch.cat(parts, dim=-1) if self.proprio_is_feature else torch.cat(parts[::-1], dim=2)
        rotary = None
        tokens = x_BTSD.shape[2]
        condition_tokens = tokens - self.latents.num_patches
        if self.positions is not None:
            check_position_table(T, len(self.positions))
            x_BTSD = x_BTSD + self.positions[before:T]
        else:
            rotary = frame_rotary_table(
                self.head_dim, T, self.latents.grid, condition_tokens, self.pairing, visual_BTPD.device
            ).rows(slice(before * tokens, None))
        kept: list[KeyValue] = []
        last = len(self.blocks) - 1
        for depth, block in enumerate(cast("Sequence[AdaptiveBlock]", self.blocks)):
            x_BTSD, keys_values = block.extend(
                x_BTSD, actions[depth], known[depth], rotary=rotary, last_only=last_only and depth == last
            )
            if keep:
                kept.append(keys_values)
        x_BTSD = self.norm(x_BTSD)
        if self.proprio_is_feature:
            visual, proprio = x_BTSD.split([self.embed_dim, self.latents.proprio_dim], dim=-1)
        else:
            proprio, visual = x_BTSD.split([condition_tokens, self.latents.num_patches], dim=2)
        proprio = None if proprio_BTQE is None else at_least_float32(proprio)
        predicted = at_least_float32(self.project(visual)), proprio
        return predicted, Prefix(tuple(kept), T) if keep else None
