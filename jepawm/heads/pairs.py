"""Heads that read two latents of one model: now and a goal."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.errors import ConfigError
from jepawm.nn.mlp import mlp


class PairFeatures(nn.Module):
    """One latent as one vector, centred and scaled by what `fit` saw.

    Args:
        num_patches: Patches `P`.
        latent_dim: Width `D` of a visual token.
        proprio_dim: Width `E` of the proprio part that is read; 0: none is.
        mean_of_patches: Read the mean of the patches instead of all of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_patches: int, latent_dim: int, proprio_dim: int, *, mean_of_patches: bool) -> None:
        super().__init__()
        self.num_patches = num_patches
        self.latent_dim = latent_dim
        self.proprio_dim = proprio_dim
        self.mean_of_patches = mean_of_patches
        self.dim = latent_dim * (1 if mean_of_patches else num_patches) + proprio_dim
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("std", torch.ones(self.dim))

    def raw(self, visual: Float[Tensor, "*lead P D"], proprio: Float[Tensor, "*lead Q E"] | None) -> Tensor:
        """`[*lead,F]` features in the latents' own scale.

        Raises:
            ConfigError: Latents of other widths, or without the proprio part that is read.
        """
        if tuple(visual.shape[-2:]) != (self.num_patches, self.latent_dim):
            raise ConfigError(
                f"the head takes latents of {self.num_patches} patches of width {self.latent_dim}, found "
                f"{list(visual.shape[-2:])}"
            )
        parts = [visual.mean(dim=-2) if self.mean_of_patches else visual.flatten(-2)]
        if self.proprio_dim:
            if proprio is None or proprio.shape[-1] != self.proprio_dim:
                width = None if proprio is None else proprio.shape[-1]
                raise ConfigError(f"the head reads a proprio part of width {self.proprio_dim}, found {width}")
            parts.append(proprio.mean(dim=-2))
        return torch.cat(parts, dim=-1)

    def forward(self, visual: Float[Tensor, "*lead P D"], proprio: Float[Tensor, "*lead Q E"] | None) -> Tensor:
        """`[*lead,F]` features around 0, of deviation 1 over what `fit` saw."""
        return (self.raw(visual, proprio) - self.mean) / self.std

    @torch.no_grad()
    def fit(self, visual_MPD: Float[Tensor, "M P D"], proprio_MQE: Float[Tensor, "M Q E"] | None) -> None:
        """Takes mean and deviation from some latents; features that hardly vary are centred and not blown up."""
        rows_MF = self.raw(visual_MPD, proprio_MQE).double()
        std_F = rows_MF.std(dim=0, correction=0)
        self.mean.copy_(rows_MF.mean(dim=0))
        self.std.copy_(std_F.clamp_min(1e-3 * float(std_F.mean()) + 1e-12))


class PairHead(nn.Module):
    """A perceptron on the features of now, of the goal, and of their difference.

    Args:
        features: One latent as one vector.
        out_dim: Numbers that are read.
        hidden_dim: Width of the hidden layers.
        num_layers: Hidden layers.
    """

    def __init__(self, features: PairFeatures, out_dim: int, *, hidden_dim: int, num_layers: int) -> None:
        super().__init__()
        self.features = features
        self.net = mlp(3 * features.dim, hidden_dim, out_dim, num_layers)

    def read(
        self, visual: Tensor, goal_visual: Tensor, proprio: Tensor | None = None, goal_proprio: Tensor | None = None
    ) -> Float[Tensor, "*lead out"]:
        """`[*lead,out]` from latents and goals whose leading axes broadcast, in the precision of the latents."""
        now, goal = torch.broadcast_tensors(self.features(visual, proprio), self.features(goal_visual, goal_proprio))
        return self.net(torch.cat([now, goal, goal - now], dim=-1)).to(visual.dtype)


class DistanceHead(PairHead):
    """The learned temporal distance: how many model steps a goal is away.

    Reference: Hartikainen et al. 2019, Dynamical Distance Learning, arXiv 1907.08225.
    """

    def __init__(self, features: PairFeatures, *, hidden_dim: int, num_layers: int, scale: float) -> None:
        super().__init__(features, 1, hidden_dim=hidden_dim, num_layers=num_layers)
        self.scale = scale

    def forward(
        self,
        visual: Float[Tensor, "*lead P D"],
        goal_visual: Float[Tensor, "*goal P D"],
        proprio: Float[Tensor, "*lead Q E"] | None = None,
        goal_proprio: Float[Tensor, "*goal Q E"] | None = None,
    ) -> Tensor:
        """Model steps from latents to goals, 0 or more; it is no metric, for the way back may be longer.

        Args:
            visual: `[*lead,P,D]` visual tokens of the latents.
            goal_visual: The same of the goals; leading axes broadcast.
            proprio: `[*lead,Q,E]` proprio part, where the head reads it.
            goal_proprio: The same of the goals.

        Returns:
            `[*lead]` model steps.

        Raises:
            ConfigError: Latents of other widths than the head was trained on.
        """
        return self.scale * F.softplus(self.read(visual, goal_visual, proprio, goal_proprio).squeeze(-1))


class GoalInverseDynamicsHead(PairHead):
    """The action chunk to execute now on the way to a goal (GC-IDM): a policy without search."""

    def forward(
        self,
        visual: Float[Tensor, "*lead P D"],
        goal_visual: Float[Tensor, "*goal P D"],
        proprio: Float[Tensor, "*lead Q E"] | None = None,
        goal_proprio: Float[Tensor, "*goal Q E"] | None = None,
    ) -> Tensor:
        """`[*lead,A]` chunks, normalised as the model normalises actions; see `DistanceHead.forward`."""
        return self.read(visual, goal_visual, proprio, goal_proprio)
