"""Clips to mask: something moves in one part of the frame, and the features of that part move as well."""

import torch

from jepawm.pretraining.masks import Cues, TokenGrid
from jepawm.seeding import stream_generator

GRID = TokenGrid(4, 4, 6)
IMAGE = TokenGrid(1, 4, 6)
LATENT_DIM = 8
PATCH = 4
FRAMES_PER_TOKEN = 2
# Places whose pixels and features change from time to time.
MOVING = (7, 8, 9, 13, 14, 15)


def cues(num_clips: int, grid: TokenGrid = GRID) -> Cues:
    """Noise that stands still, with noise of its own for each frame in the moving places."""
    generator = torch.Generator().manual_seed(num_clips)
    frames = grid.times * FRAMES_PER_TOKEN if grid.times > 1 else 1
    shape = (num_clips, frames, 3, grid.rows * PATCH, grid.columns * PATCH)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    moving = torch.zeros(grid.num_places, dtype=torch.bool)
    moving[[place for place in MOVING if place < grid.num_places]] = True
    by_pixel = moving.view(grid.rows, grid.columns).repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)
    pixels = torch.where(by_pixel, pixels, pixels[:, :1])
    features = torch.randn(num_clips, grid.times, grid.num_places, LATENT_DIM, generator=generator)
    features = torch.where(moving[:, None], features, features[:, :1])
    return Cues(pixels, features.flatten(1, 2))


def share_of(both: Cues, rows: slice) -> Cues:
    """What one worker has of them."""
    assert both.pixels_BTCYX is not None
    assert both.features_BLD is not None
    return Cues(both.pixels_BTCYX[rows], both.features_BLD[rows])


def generator_of(counter: int, seed: int = 0) -> torch.Generator:
    """The generator of one draw, as a run makes it."""
    return stream_generator(seed, "masks", counter)
