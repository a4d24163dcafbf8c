"""DINO-WM's predictor: proprio and action are features of every patch token."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config import PredictorConfig
from jepawm.errors import ConfigError
from jepawm.nn.transformer import Block
from jepawm.predictors.base import PatchPredictor, Predicted, ProprioEncoding, over_patches


class FeaturePredictor(PatchPredictor):
    """A frame-causal transformer on `[visual | proprio | action]` features with a learned position table.

    The tokens that leave the last normalisation are the prediction: there is no output projection, and no difference is
    predicted. The action features of the output mean nothing and are dropped.

    Args:
        config: Depth, heads, widths, dropout.
        grid: Rows and columns of patches.
        latent_dim: Width `D` of a visual token.
        action_dim: Width `A` of an action chunk.
        proprio: How proprio enters.
        proprio_dim: Width `E` of the proprio latent; unused with `none`.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, section 3.2.
    """

    def __init__(
        self,
        config: PredictorConfig,
        *,
        grid: tuple[int, int],
        latent_dim: int,
        action_dim: int,
        proprio: ProprioEncoding,
        proprio_dim: int,
    ) -> None:
        super().__init__(config, grid=grid, latent_dim=latent_dim, proprio=proprio, proprio_dim=proprio_dim)
        self.action_features = config.action_dims or 10
        if config.embed_dim not in (0, latent_dim):
            raise ConfigError(
                f"model.predictor.embed_dim: the feature predictor does not project its tokens; it must be 0 or the "
                f"latent width {latent_dim}, found {config.embed_dim}"
            )
        self.width = latent_dim + self.proprio_dim + self.action_features
        self.num_frames = config.longest_window or config.context_window
        self.action = nn.Linear(action_dim, self.action_features)
        self.positions = nn.Parameter(torch.randn(1, self.num_frames * self.num_patches, self.width))
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

    def forward(
        self,
        visual_BTPD: Float[Tensor, "B T P D"],
        actions_BTA: Float[Tensor, "B T A"],
        proprio_BTQE: Float[Tensor, "B T Q E"] | None = None,
        *,
        last_only: bool = False,
    ) -> Predicted:
        """Predicts the successor of every frame; see `Predictor`.

        Raises:
            ConfigError: Tokens or proprio of another shape, or more frames than the position table holds.
        """
        self._check(visual_BTPD, proprio_BTQE)
        T, P = visual_BTPD.shape[1:3]
        if self.num_frames < T:
            raise ConfigError(
                f"a window of {T} frames is longer than the learned position table ({self.num_frames}); raise "
                "model.predictor.num_positions"
            )
        features = [visual_BTPD, over_patches(self.action(actions_BTA), P)]
        if proprio_BTQE is not None:
            features.insert(1, proprio_BTQE)
        x_BLD = torch.cat([part.to(features[-1].dtype) for part in features], dim=-1).flatten(1, 2)
        x_BLD = x_BLD + self.positions[:, : T * P]
        last = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            queries = P if last_only and depth == last else None
            x_BLD = block(x_BLD, tokens_per_frame=P, num_queries=queries)
        x_BTPD = self.norm(x_BLD).unflatten(1, (-1, P)).float()
        visual, proprio, _ = x_BTPD.split([self.latent_dim, self.proprio_dim, self.action_features], dim=-1)
        return visual, None if proprio_BTQE is None else proprio
