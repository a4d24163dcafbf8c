"""V-JEPA 2-AC's predictor: action and pose are tokens in front of each frame, or features of its patches."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from jepawm.config.predictor import VJEPA2ACPredictorConfig
from jepawm.nn.attention import KeyValue
from jepawm.nn.precision import at_least_float32, like_weights
from jepawm.nn.rotary import frame_rotary_table
from jepawm.nn.transformer import Block, init_transformer_
from jepawm.predictors.base import Predicted, head_width, over_patches
from jepawm.predictors.causal import ActionCodes, CausalPredictor, Prefix, past_of
from jepawm.types import LatentSpec


class TokenPredictor(CausalPredictor):
    """A frame-causal transformer with rotary positions over `[action, pose, patches]` of each frame.

    With `action_as` token, the pose enters raw and is encoded here; it is not predicted. With `action_as` feature, the
    channels are `[visual | proprio | action]` and the encoded proprio is predicted beside the tokens.

    Args:
        config: Depth, heads, widths.
        latents: Shapes of the latents and action chunks.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 3; as a feature in Terver et al. 2025,
        JEPA-WMs, arXiv 2512.24497.
    """

    def __init__(self, config: VJEPA2ACPredictorConfig, latents: LatentSpec) -> None:
        super().__init__(config, latents)
        self.as_token = config.action_as == "token"
        self.pairing = config.rotary_pairing
        latent_dim, proprio_dim = latents.dim, latents.proprio_dim
        self.embed_dim = config.token_width(latent_dim)
        action_features = config.action_dims or 10
        self.width = self.embed_dim if self.as_token else self.embed_dim + proprio_dim + action_features
        self.head_dim = head_width(config, self.width, rotary=True)
        self.embed = nn.Linear(latent_dim, self.embed_dim)
        self.action = nn.Linear(latents.chunk_dim, self.width if self.as_token else action_features)
        self.pose = nn.Linear(proprio_dim, self.width) if self.as_token and latents.proprio == "token" else None
        hidden = config.mlp_dim or 4 * self.width
        self.blocks = nn.ModuleList(
            Block(self.width, config.num_heads, hidden, head_dim=self.head_dim, dropout=config.dropout)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        self.project = nn.Linear(self.embed_dim, latent_dim)
        init_transformer_(self, self.blocks)

    def encode_actions(self, actions_BTA: Tensor) -> ActionCodes:
        return (self.action(like_weights(actions_BTA, self.action)),)

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
        P = visual_BTPD.shape[2]
        T = before + visual_BTPD.shape[1]
        x_BTPD, action_BTE = self.embed(like_weights(visual_BTPD, self.embed)), actions[0]
        if self.as_token:
            condition = [action_BTE.unsqueeze(2)]
            if self.pose is not None and proprio_BTQE is not None:
                condition.append(self.pose(like_weights(proprio_BTQE, self.pose)))
            x_BTSD = torch.cat([*condition, x_BTPD], dim=2)
        else:
            features = [x_BTPD, over_patches(action_BTE, P)]
            if proprio_BTQE is not None:
                features.insert(1, proprio_BTQE.to(x_BTPD.dtype))
            x_BTSD = torch.cat(features, dim=-1)
        S = x_BTSD.shape[2]
        rotary = frame_rotary_table(self.head_dim, T, self.latents.grid, S - P, self.pairing, visual_BTPD.device).rows(
            slice(before * S, None)
        )
        x_BLD = x_BTSD.flatten(1, 2)
        kept: list[KeyValue] = []
        last = len(self.blocks) - 1
        for depth, block in enumerate(cast("Sequence[Block]", self.blocks)):
            queries = S if last_only and depth == last else None
            x_BLD, keys_values = block.extend(
                x_BLD, known[depth], rotary=rotary, tokens_per_frame=S, num_queries=queries
            )
            if keep:
                kept.append(keys_values)
        x_BTPD = self.norm(x_BLD).unflatten(1, (-1, S))[:, :, S - P :]
        proprio = None
        if not self.as_token and proprio_BTQE is not None:
            proprio = x_BTPD[..., self.embed_dim : self.embed_dim + self.latents.proprio_dim]
            proprio = at_least_float32(proprio)
        predicted = at_least_float32(self.project(x_BTPD[..., : self.embed_dim])), proprio
        return predicted, Prefix(tuple(kept), T) if keep else None
