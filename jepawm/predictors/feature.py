"""DINO-WM's predictor: proprio and action are features of every patch token."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from jepawm.config.predictor import FeaturePredictorConfig
from jepawm.nn.attention import KeyValue
from jepawm.nn.precision import at_least_float32, like_weights
from jepawm.nn.transformer import Block
from jepawm.predictors.base import Predicted, check_position_table, over_patches
from jepawm.predictors.causal import ActionCodes, CausalPredictor, Prefix, past_of
from jepawm.types import LatentSpec


class FeaturePredictor(CausalPredictor):
    """A frame-causal transformer on `[visual | proprio | action]` features with a learned position table.

    The tokens that leave the last normalisation are the prediction: there is no output projection, and no difference is
    predicted. The action features of the output mean nothing and are dropped.

    Args:
        config: Depth, heads, widths, dropout.
        latents: Shapes of the latents and action chunks.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, section 3.2.
    """

    def __init__(self, config: FeaturePredictorConfig, latents: LatentSpec) -> None:
        super().__init__(config, latents)
        self.action_features = config.action_dims or 10
        self.width = latents.dim + latents.proprio_dim + self.action_features
        self.num_frames = config.longest_window or config.context_window
        self.action = nn.Linear(latents.chunk_dim, self.action_features)
        self.positions = nn.Parameter(torch.randn(1, self.num_frames * latents.num_patches, self.width))
        self.blocks = nn.ModuleList(
            Block(
                self.width,
                config.num_heads,
                config.mlp_dim or 2048,
                head_dim=config.head_dim or 64,
                qkv_bias=False,
                dropout=config.dropout,
                eps=1e-5,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(self.width)

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
        check_position_table(T, self.num_frames)
        features = [visual_BTPD, over_patches(actions[0], P)]
        if proprio_BTQE is not None:
            features.insert(1, proprio_BTQE)
        x_BLD = torch.cat([part.to(features[-1].dtype) for part in features], dim=-1).flatten(1, 2)
        x_BLD = x_BLD + self.positions[:, before * P : T * P]
        kept: list[KeyValue] = []
        last = len(self.blocks) - 1
        for depth, block in enumerate(cast("Sequence[Block]", self.blocks)):
            queries = P if last_only and depth == last else None
            x_BLD, keys_values = block.extend(x_BLD, known[depth], tokens_per_frame=P, num_queries=queries)
            if keep:
                kept.append(keys_values)
        x_BTPD = at_least_float32(self.norm(x_BLD).unflatten(1, (-1, P)))
        visual, proprio, _ = x_BTPD.split([self.latents.dim, self.latents.proprio_dim, self.action_features], dim=-1)
        predicted = visual, None if proprio_BTQE is None else proprio
        return predicted, Prefix(tuple(kept), T) if keep else None
