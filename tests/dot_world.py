"""A world of one dot, as latents know it: episodes in which it moves straight towards a place."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from jepawm.heads import HeadShape
from jepawm.latent import Latent
from jepawm.training.latent_episodes import LatentEpisodes

SIZE = 16
STRIDE = 0.08
SHAPE = HeadShape((1, 1), latent_dim=4, proprio_dim=0, image_size=SIZE, chunk_dim=2, state_names=("x", "y", "fixed"))


def latents_of(positions: Tensor) -> Latent:
    """`[...,2]` places in the unit square to latents `[...]` of one patch, of about unit deviation."""
    x, y = (4 * (positions - 0.5)).unbind(-1)
    return Latent(torch.stack([x - y, x + y, x * y, torch.ones_like(x)], dim=-1)[..., None, :])


def draw(positions: Tensor) -> Tensor:
    """`[M,2]` places to `[M,3,16,16]` uint8 frames: a bright dot on a dark ground."""
    cells = (torch.arange(SIZE) + 0.5) / SIZE
    dx, dy = (cells - positions[:, :1], cells - positions[:, 1:])
    bump = torch.exp(-(dx[:, None, :].square() + dy[:, :, None].square()) / (2 * 0.12**2))
    return (255 * bump[:, None].expand(-1, 3, -1, -1)).round().to(torch.uint8)


def episodes(number: int, seed: int, *, frames: int = 10) -> LatentEpisodes:
    """Straight ways of `frames` frames; chunks are moves in units of the stride."""
    generator = torch.Generator().manual_seed(seed)
    start_E2 = 0.2 + 0.6 * torch.rand(number, 2, generator=generator)
    angle_E = 2 * math.pi * torch.rand(number, generator=generator)
    move_E2 = torch.stack([angle_E.cos(), angle_E.sin()], dim=-1)
    positions = (start_E2[:, None] + STRIDE * torch.arange(frames)[None, :, None] * move_E2[:, None]).flatten(0, 1)
    chunks_EF2 = move_E2[:, None].repeat(1, frames, 1)
    chunks_EF2[:, -1] = 0
    states = torch.stack([100 * positions[:, 0], 200 * positions[:, 1], torch.full((len(positions),), 5.0)], dim=-1)
    return LatentEpisodes(latents_of(positions), (frames,) * number, draw(positions), states, chunks_EF2.flatten(0, 1))


def with_empty_latents(known: LatentEpisodes) -> LatentEpisodes:
    """The same episodes with latents that say nothing: the control from which no head can learn."""
    return replace(known, latents=known.latents.map(torch.zeros_like))


def halves(number: int, seed: int) -> LatentEpisodes:
    """Single frames that are bright on the left or on the right, and latents that say which, with noise."""
    generator = torch.Generator().manual_seed(seed)
    right_M = torch.rand(number, generator=generator) < 0.5
    side_M1 = torch.where(right_M, 1.0, -1.0)[:, None]
    visual = side_M1 * torch.tensor([1.0, -1.0, 1.0, -1.0]) + 0.1 * torch.randn(number, 4, generator=generator)
    columns = torch.arange(SIZE) >= SIZE // 2
    bright = columns[None] == right_M[:, None]
    pixels = torch.where(bright, 230, 25).to(torch.uint8)[:, None, None].expand(-1, 3, SIZE, -1).contiguous()
    return LatentEpisodes(Latent(visual[:, None]), (1,) * number, pixels)
