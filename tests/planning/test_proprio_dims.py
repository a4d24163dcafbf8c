"""A cost may look at some numbers of proprio alone."""

import pytest
import torch

from jepawm.config import ObjectiveConfig, RunConfig
from jepawm.errors import ConfigError, PlanningError
from jepawm.latent import Latent
from jepawm.planning import build_objective


def latents(proprio: torch.Tensor) -> Latent:
    """`[B,N,H]` latents whose visual part is at the goal."""
    return Latent(torch.zeros(*proprio.shape[:-2], 1, 3), proprio)


def test_the_numbers_that_are_named_are_compared():
    generator = torch.Generator().manual_seed(0)
    goal, seen = torch.randn(2, 1, 4, generator=generator), torch.randn(2, 5, 3, 1, 4, generator=generator)
    config = ObjectiveConfig(proprio_weight=2.0, proprio_dims=(0, 3))
    cost_BN = build_objective(config, latents(goal))(latents(seen))
    difference = (seen - goal[:, None, None])[:, :, -1, 0]
    # Twice the mean of two squares is their sum.
    torch.testing.assert_close(cost_BN, difference[..., 0].square() + difference[..., 3].square())
    everything = build_objective(ObjectiveConfig(proprio_weight=1.0), latents(goal))(latents(seen))
    torch.testing.assert_close(everything, difference.square().mean(dim=-1))


def test_numbers_that_are_not_there_are_refused():
    objective = build_objective(ObjectiveConfig(proprio_dims=(4,)), latents(torch.zeros(1, 1, 4)))
    with pytest.raises(PlanningError, match=r"names number 4, the proprio part of the latents has numbers 0 to 3"):
        objective(latents(torch.zeros(1, 2, 3, 1, 4)))
    with pytest.raises(ConfigError, match=r"objective.proprio_dims must not be negative, found \[-1\]"):
        ObjectiveConfig(proprio_dims=(-1,))
    with pytest.raises(ConfigError, match=r"the latent holds those only with model.proprio.update fit_linear or"):
        RunConfig(objective=ObjectiveConfig(proprio_dims=(0,)))
