"""Reads the simulator's state from latents, to see what they hold."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.heads.vit import LatentTrunk, from_published, grid_of, num_blocks, published_head, shape_of
from jepawm.nn import weights


class StateHead(nn.Module):
    """A transformer with one extra token, from which the state of each frame is read.

    The published recipe trains it on detached latents with the mean absolute error of the state in its own units.

    Args:
        latent_dim: Width `D` of the latents.
        state_dim: Width `S` of the state.
        grid: Rows and columns of the latents' patches.
        dim: Width inside.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Width inside the feed-forward over `dim`.

    Raises:
        ConfigError: `dim` is not a multiple of 4 and of `num_heads`.

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497.
    """

    def __init__(
        self,
        latent_dim: int,
        state_dim: int,
        *,
        grid: tuple[int, int] = (16, 16),
        dim: int = 384,
        depth: int = 6,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.trunk = LatentTrunk(latent_dim, grid, dim=dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        self.state_token = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, state_dim)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, "B T S"]:
        """Reads the state of every frame.

        Args:
            latents_BTPD: `[B,T,P,D]` latents.

        Returns:
            `[B,T,S]` states in the simulator's units, float32.

        Raises:
            ConfigError: Latents of another width or number of patches.
        """
        grid = grid_of(latents_BTPD, self.trunk.latent_dim, self.trunk.grid)
        x = self.trunk(latents_BTPD.flatten(0, 1), grid, first_token=self.state_token)
        return self.proj(x[:, 0]).float().unflatten(0, latents_BTPD.shape[:2])


def load_state_head(source: str, *, num_heads: int = 16, part: str = "model") -> StateHead:
    """A state head of the published layout; its widths and depth are read from the file.

    Args:
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.
        num_heads: Attention heads, which a file does not tell.
        part: Key of the tensors in the file.

    Raises:
        CheckpointError: The file is missing, damaged, or of another head.
    """
    tensors, where = published_head(source, part, "state heads are not published: train one")
    dim, latent_dim = shape_of(tensors, "decoder_embed.weight", where)
    side = math.isqrt(shape_of(tensors, "decoder_pos_embed", where)[1])
    hidden_dim = shape_of(tensors, "decoder_blocks.0.mlp.fc1.weight", where)[0]
    head = StateHead(
        latent_dim,
        shape_of(tensors, "state_proj.weight", where)[0],
        grid=(side, side),
        dim=dim,
        depth=num_blocks(tensors),
        num_heads=num_heads,
        mlp_ratio=hidden_dim / dim,
    )
    weights.load_strict(head, from_published(tensors, {"state_proj.": "proj."}), where)
    return head
