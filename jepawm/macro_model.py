"""A world model whose steps are several model steps long: the high level of a two-level planner.

It reads and predicts the latents of a trained world model, which stays as it is. Its actions are macro-actions: a few
numbers that an encoder makes of the action chunks of several model steps. A planner searches macro-actions; the world
model's own planner then searches the actions that lead to what the first of them is predicted to lead to.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.macro import MacroHeadConfig
from jepawm.errors import ConfigError
from jepawm.heads.shape import HeadShape
from jepawm.latent import Latent
from jepawm.nn.mlp import mlp
from jepawm.nn.precision import at_least_float32
from jepawm.predictors import build_predictor
from jepawm.types import ActionSpec, LatentSpec


class MacroModel(nn.Module):
    """Latents and macro-actions to the latents `num_model_steps` later.

    Visual tokens and proprio of a patch are one token of the predictor, centred and scaled by what `fit_scale` saw.
    Codes are what the encoder makes of chunks; macro-actions are the same numbers whitened by what `fit_macros` saw, so
    that in the data they are uncorrelated, of mean 0 and deviation 1.

    Args:
        config: Sizes.
        shape: Widths of latents and chunks.

    Attributes:
        num_model_steps: Model steps `k` that a macro-action lasts.
        encoder: Normalised chunks `[...,k*A]` to codes `[...,d]`.

    Reference: HWM, arXiv 2604.03208.
    """

    token_mean: Tensor
    token_std: Tensor
    code_mean: Tensor
    code_map: Tensor
    macro_low: Tensor
    macro_high: Tensor

    def __init__(self, config: MacroHeadConfig, shape: HeadShape) -> None:
        super().__init__()
        self.num_model_steps = config.num_model_steps
        self.shape = shape
        width, d = shape.latent_dim + shape.proprio_dim, config.macro_dim
        self.encoder = mlp(config.num_model_steps * shape.chunk_dim, config.hidden_dim, d, config.num_layers)
        self.predictor = build_predictor(config.predictor, LatentSpec(grid=shape.grid, dim=width, chunk_dim=d))
        self.register_buffer("token_mean", torch.zeros(width))
        self.register_buffer("token_std", torch.ones(width))
        self.register_buffer("code_mean", torch.zeros(d))
        self.register_buffer("code_map", torch.eye(d))
        self.register_buffer("macro_low", torch.full((d,), -torch.inf))
        self.register_buffer("macro_high", torch.full((d,), torch.inf))

    def encode(self, chunks_kA: Float[Tensor, "*lead k A"]) -> Float[Tensor, "*lead d"]:
        """Codes `[*lead,d]` of normalised action chunks `[*lead,k,A]`."""
        return self.encoder(chunks_kA.flatten(-2))

    def step(self, tokens_MPF: Float[Tensor, "M P F"], codes_Md: Float[Tensor, "M d"]) -> Float[Tensor, "M P F"]:
        """Tokens `[M,P,F]` one macro-action later."""
        predicted, _ = self.predictor(tokens_MPF[:, None], codes_Md[:, None], last_only=True)
        return predicted[:, 0]

    def unroll(self, now: Latent, macros_BNHd: Float[Tensor, "B N H d"]) -> Latent:
        """Predicts what macro-actions lead to.

        Args:
            now: Latents `[B]` of the present.
            macros_BNHd: `[B,N,H,d]` candidates.

        Returns:
            Latents `[B,N,H]`, one after each macro-action.

        Raises:
            ConfigError: Latents of other widths than the model was built for.
        """
        B, N, H, _ = macros_BNHd.shape
        codes_MHd = (macros_BNHd.to(self.code_map.dtype) @ self.code_map.T + self.code_mean).flatten(0, 1)
        tokens_MPF = self.tokens(now).repeat_interleave(N, dim=0)
        found = []
        for at in range(H):
            tokens_MPF = self.step(tokens_MPF, codes_MHd[:, at])
            found.append(tokens_MPF)
        return self._latents(torch.stack(found, dim=1).unflatten(0, (B, N)), now)

    def tokens(self, latents: Latent) -> Float[Tensor, "*lead P F"]:
        """`[*lead,P,F]` centred and scaled tokens: of each patch its visual token, and the proprio part.

        Raises:
            ConfigError: Latents of other widths than the model was built for.
        """
        return (self._raw_tokens(latents) - self.token_mean) / self.token_std

    @torch.no_grad()
    def fit_scale(self, latents: Latent) -> None:
        """Takes mean and deviation of each feature from latents `[M]`; features that hardly vary are not blown up."""
        rows = self._raw_tokens(latents).flatten(0, -2).cpu().double()
        std = rows.std(dim=0, correction=0)
        self.token_mean.copy_(rows.mean(dim=0))
        self.token_std.copy_(std.clamp_min(1e-3 * float(std.mean()) + 1e-12))

    @torch.no_grad()
    def fit_macros(self, chunks_MkA: Float[Tensor, "M k A"]) -> None:
        """Whitens the codes of normalised chunks `[M,k,A]`, and takes the bounds of macro-actions from them.

        A deviation below a thousandth of the largest one counts as that much. Bounds are then narrow in directions in
        which codes hardly vary, so that a search stays where the data is.
        """
        codes_Md = self.encode(chunks_MkA).cpu().double()
        mean_d = codes_Md.mean(dim=0)
        away_Md = codes_Md - mean_d
        variances_d, axes_dd = torch.linalg.eigh(away_Md.T @ away_Md / len(codes_Md))
        std_d = variances_d.clamp_min(0).sqrt()
        std_d = std_d.clamp_min(1e-3 * float(std_d.max()) + 1e-12)
        macros_Md = away_Md @ axes_dd / std_d
        self.code_mean.copy_(mean_d)
        self.code_map.copy_(axes_dd * std_d)
        self.macro_low.copy_(macros_Md.amin(dim=0))
        self.macro_high.copy_(macros_Md.amax(dim=0))

    def macros(self, chunks_kA: Float[Tensor, "*lead k A"]) -> Float[Tensor, "*lead d"]:
        """Macro-actions `[*lead,d]` of normalised action chunks `[*lead,k,A]`: the inverse of what `unroll` reads."""
        away = self.encode(chunks_kA) - self.code_mean
        return torch.linalg.solve(self.code_map, away.unsqueeze(-1)).squeeze(-1)

    def macro_spec(self) -> ActionSpec:
        """What a macro-action is: its width, and its bounds in the data."""
        low, high = ([float(value) for value in side] for side in (self.macro_low, self.macro_high))
        return ActionSpec(len(low), tuple(low), tuple(high))

    def _raw_tokens(self, latents: Latent) -> Tensor:
        visual, proprio, shape = latents.visual, latents.proprio, self.shape
        found = None if proprio is None else proprio.shape[-1]
        if tuple(visual.shape[-2:]) != (shape.num_patches, shape.latent_dim) or (found or 0) != shape.proprio_dim:
            raise ConfigError(
                f"the macro model reads latents of {shape.num_patches} patches of width {shape.latent_dim} and a "
                f"proprio part of width {shape.proprio_dim}, found {list(visual.shape[-2:])} and {found}"
            )
        if proprio is None:
            return at_least_float32(visual)
        felt = proprio.expand(*visual.shape[:-1], proprio.shape[-1])
        return torch.cat([at_least_float32(visual), at_least_float32(felt)], dim=-1)

    def _latents(self, tokens: Float[Tensor, "*lead P F"], like: Latent) -> Latent:
        """Latents `[*lead]` of tokens; proprio that is one token is the mean over patches."""
        raw = tokens * self.token_std + self.token_mean
        visual, felt = raw.split([self.shape.latent_dim, self.shape.proprio_dim], dim=-1)
        if like.proprio is None:
            return Latent(visual)
        return Latent(visual, felt.mean(dim=-2, keepdim=True) if like.proprio.shape[-2] == 1 else felt)


def macro_model(config: MacroHeadConfig, shape: HeadShape) -> MacroModel:
    """A fresh macro model, as `jepawm.heads.build_head` builds each kind."""
    return MacroModel(config, shape)
