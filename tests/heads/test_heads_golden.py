"""Image and state heads against golden vectors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jepawm.heads import ImageHead, StateHead, load_image_head, load_state_head

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# Share of the golden output's norm by which bfloat16 may be off.
BFLOAT16 = 0.02


@pytest.fixture(scope="module")
def io(golden: Path) -> dict[str, Tensor]:
    """One view: `[B,T,P,D]` latents; patches `[B,T,L,pixels]`; states `[B,T,S]`."""
    found = load_file(golden / "heads" / "io.safetensors")
    return {
        "latents": found["latent"][:, :, 0].flatten(2, 3),
        "patches": found["image_head.patches"][:, :, 0].flatten(2, 3),
        "states": found["state_head.state"],
    }


@pytest.fixture(scope="module")
def image_head(golden: Path) -> ImageHead:
    path = str(golden / "heads" / "image_head.pth")
    return load_image_head(path, normalization="imagenet", num_heads=4, part="image_head").eval()


@pytest.fixture(scope="module")
def state_head(golden: Path) -> StateHead:
    return load_state_head(str(golden / "heads" / "state_head.pth"), num_heads=4, part="state_head").eval()


@torch.no_grad()
def test_image_head_patches(image_head, io):
    torch.testing.assert_close(image_head.patches(io["latents"]), io["patches"], **CLOSE)


@torch.no_grad()
def test_image_head_puts_every_patch_where_it_belongs(image_head, io):
    frames, pixels = image_head(io["latents"]), image_head.decode(io["latents"])
    assert frames.shape == pixels.shape == (2, 3, 3, 56, 56)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for row, column, p, q in ((0, 0, 0, 0), (3, 6, 2, 5), (7, 1, 6, 0)):
        colour = io["patches"][1, 2, 8 * row + column].reshape(7, 7, 3)[p, q]
        torch.testing.assert_close(frames[1, 2, :, 7 * row + p, 7 * column + q], colour, **CLOSE)
        expected = (255 * (colour * std + mean)).clamp(0, 255)
        assert (pixels[1, 2, :, 7 * row + p, 7 * column + q] - expected).abs().max() <= 0.5 + 1e-3


@torch.no_grad()
def test_state_head(state_head, io):
    torch.testing.assert_close(state_head(io["latents"]), io["states"], **CLOSE)


@torch.no_grad()
def test_bfloat16_stays_within_its_tolerance(image_head, state_head, io):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = {"patches": image_head.patches(io["latents"]), "states": state_head(io["latents"])}
    for name, value in found.items():
        assert (value - io[name]).norm() < BFLOAT16 * io[name].norm()
