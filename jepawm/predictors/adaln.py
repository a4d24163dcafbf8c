"""A transformer over frames whose normalisations the action modulates."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.config import PredictorConfig
from jepawm.errors import ConfigError
from jepawm.nn.projector import Projector
from jepawm.nn.rotary import frame_rotary_table
from jepawm.nn.transformer import AdaptiveBlock, init_transformer_
from jepawm.predictors.base import PatchPredictor, Predicted, ProprioEncoding, head_width

# LeWM first maps a chunk to ten features, whatever its width.
_ACTION_FEATURES = 10


class AdaLNPredictor(PatchPredictor):
    """Frames attend to themselves and to those before them; each frame's action shifts, scales and gates its tokens.

    The prediction is the next latent itself, not a difference. A proprio feature rides on every patch token, a proprio
    token stands in front of each frame; either comes back as the last normalisation leaves it.

    Args:
        config: Widths, depth, positions.
        grid: Rows and columns of patches.
        latent_dim: Width `D` of a visual token.
        action_dim: Width `A` of an action chunk.
        proprio: How proprio enters.
        proprio_dim: Width `E` of the proprio latent; unused with `none`.

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497; with learned positions, Maes et al. 2026, LeWM.
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
        self.embed_dim = config.embed_dim or latent_dim
        self.width = self.embed_dim + (self.proprio_dim if self.as_feature else 0)
        if proprio == "token" and proprio_dim != self.width:
            raise ConfigError(
                f"a proprio token must be as wide as the predictor's tokens ({self.width}), found {proprio_dim}"
            )
        self.head_dim = head_width(config, self.width, rotary=config.position == "rotary")
        self.pairing = config.rotary_pairing
        if not config.input_projection and self.embed_dim != latent_dim:
            raise ConfigError(
                f"model.predictor.embed_dim must be 0 or the latent width {latent_dim} without an input_projection, "
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
        T = visual_BTPD.shape[1]
        x_BTSD = self.embed(visual_BTPD)
        if proprio_BTQE is not None:
            parts = [x_BTSD, proprio_BTQE.to(x_BTSD.dtype)]
            x_BTSD = torch.cat(parts, dim=-1) if self.as_feature else torch.cat(parts[::-1], dim=2)
        rotary = None
        condition_tokens = x_BTSD.shape[2] - self.num_patches
        if self.positions is not None:
            if len(self.positions) < T:
                raise ConfigError(
                    f"a window of {T} frames is longer than the learned position table ({len(self.positions)}); raise "
                    "model.predictor.num_positions"
                )
            x_BTSD = x_BTSD + self.positions[:T]
        else:
            rotary = frame_rotary_table(self.head_dim, T, self.grid, condition_tokens, self.pairing, visual_BTPD.device)
        condition_BTD = F.silu(self.action(actions_BTA))
        last = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            x_BTSD = block(x_BTSD, condition_BTD, rotary=rotary, last_only=last_only and depth == last)
        x_BTSD = self.norm(x_BTSD)
        if self.as_feature:
            visual, proprio = x_BTSD.split([self.embed_dim, self.proprio_dim], dim=-1)
        else:
            proprio, visual = x_BTSD.split([condition_tokens, self.num_patches], dim=2)
        return self.project(visual).float(), None if proprio_BTQE is None else proprio.float()
