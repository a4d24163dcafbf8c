"""Small world models without encoders, one of each kind of predictor."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.config import ModelConfig, PredictorConfig, ProprioConfig
from jepawm.config.encoder import AbsentEncoderConfig
from jepawm.latent import Latent
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

D, FRAMESKIP = 16, 2
STATISTICS = Statistics(
    np.array([0.5, -1.0], np.float32),
    np.array([2.0, 0.5], np.float32),
    np.array([0.0, 1.0, 2.0], np.float32),
    np.array([1.0, 2.0, 0.5], np.float32),
)
_SIZES: dict[str, Any] = {"depth": 2, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
_FEATURE = ProprioConfig("feature", dims=4)
KINDS: dict[str, tuple[dict[str, Any], ProprioConfig, int]] = {
    "mlp": ({"name": "mlp", "hidden_dim": 32}, ProprioConfig(), 4),
    "recurrent": ({"name": "recurrent", "hidden_dim": 32}, ProprioConfig(), 4),
    "adaln": ({"name": "adaln", **_SIZES}, _FEATURE, 4),
    "lewm": (
        {"name": "adaln", **_SIZES, "position": "learned", "projector_dim": 32, "input_projection": False},
        ProprioConfig(),
        1,
    ),
    "feature": ({"name": "feature", **_SIZES}, _FEATURE, 4),
    "vjepa2_ac": ({"name": "vjepa2_ac", **_SIZES}, ProprioConfig(), 4),
}


def make_model(kind: str, context_window: int = 2) -> WorldModel:
    """A model in evaluation mode whose weights are random everywhere.

    Args:
        kind: A key of `KINDS`.
        context_window: Frames that the predictor sees.
    """
    predictor, proprio, patches = KINDS[kind]
    side = round(patches**0.5)
    encoder = AbsentEncoderConfig(latent_dim=D, patch_size=8, resize_to=8 * side)
    config = ModelConfig(encoder, PredictorConfig(**predictor, context_window=context_window), proprio)
    torch.manual_seed(0)
    model = WorldModel(config, image_size=8 * side, frameskip=FRAMESKIP, statistics=STATISTICS).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def context_of(model: WorldModel, frames: int, episodes: int = 2) -> Latent:
    """Latents `[B,T]` as they might have been observed."""
    generator = torch.Generator().manual_seed(2)
    visual = torch.randn(episodes, frames, model.num_patches, model.latent_dim, generator=generator)
    proprio = torch.randn(episodes, frames, model.proprio_dim, generator=generator) if model.uses_proprio else None
    with torch.no_grad():
        return model.latent(visual.to(model.action_mean.dtype), proprio)


def random_chunks(model: WorldModel, *lead: int, seed: int = 3) -> Tensor:
    """Raw chunks `[*lead,A]`."""
    return torch.randn(*lead, model.action_dim, generator=torch.Generator().manual_seed(seed))
