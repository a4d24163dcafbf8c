"""A loaded model that plans: two observations in, actions out."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.config import PlannerConfig, RunConfig
from jepawm.device import autocast, pick_device
from jepawm.errors import ConfigError, did_you_mean
from jepawm.hub import load_published_run
from jepawm.latent import Latent
from jepawm.model_folder import ModelSpec, load_world_model
from jepawm.planning import CEM, ActionSearchSpace, GoalDistance
from jepawm.published import ZOO
from jepawm.world_model import WorldModel

Observation = Mapping[str, Any]
"""`pixels` `[Y,X,C]` uint8 and, for models that read it, `proprio` `[R]` in raw units; what an environment returns."""


@dataclass(frozen=True)
class ActionPlan:
    """What to do, and what the model expects of it.

    Attributes:
        actions: `[H*frameskip,a]` float32, one row an environment step, raw units, inside the bounds.
        cost: Distance between the last latent of the plan and the goal's, as the planner measured it.
        best_cost_per_iteration: `[I]` lowest cost among each iteration's candidates.
        latents: `[H]` predicted latents, one after each chunk of `frameskip` actions; a decoder draws them.
    """

    actions: np.ndarray
    cost: float
    best_cost_per_iteration: np.ndarray
    latents: Latent


class Agent:
    """A world model with its planner.

    Args:
        model: The world model, in evaluation mode.
        config: Its configuration; the planner's settings are taken from it.
        spec: Statistics and bounds of its actions.

    Attributes:
        model: The world model: `encode`, `predict`, `unroll`.
        config: The configuration.
        spec: Statistics and bounds.
    """

    def __init__(self, model: WorldModel, config: RunConfig, spec: ModelSpec) -> None:
        self.model = model
        self.config = config
        self.spec = spec

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.action_mean.device

    @torch.inference_mode()
    def encode(self, observations: Observation | Sequence[Observation]) -> Latent:
        """Latents of observations, `[1,T]`: one, or several that follow each other a model step apart.

        Raises:
            ConfigError: An observation without `pixels` (or the `proprio` that the model reads), or of a wrong shape.
        """
        frames = [observations] if isinstance(observations, Mapping) else list(observations)
        pixels = np.stack([_pixels(seen) for seen in frames])
        pixels_BTCYX = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)[None]
        proprio_BTR = None
        if self.model.uses_proprio:
            proprio = np.stack([_proprio(seen, self.model.proprio_dim) for seen in frames])
            proprio_BTR = torch.from_numpy(proprio).to(self.device)[None]
        with autocast(self.config.planner.precision, self.device):
            return self.model.encode(pixels_BTCYX, proprio_BTR)

    @torch.inference_mode()
    def plan(self, observation: Observation, goal: Observation, *, seed: int = 0, **planner: Any) -> ActionPlan:
        """Searches the actions whose predicted end is nearest to the goal.

        Args:
            observation: The present.
            goal: What should be observed at the end.
            seed: Of the search; equal seeds give equal plans.
            **planner: Settings of `PlannerConfig` to use in place of the model's own, e.g. `num_samples=64`.

        Raises:
            ConfigError: A wrong observation, or a setting that does not exist.
            PlanningError: Costs that no plan can be chosen from.
        """
        settings = _replaced(self.config.planner, planner)
        now, then = self.encode(observation), self.encode(goal)[:, 0]
        space = ActionSearchSpace(
            self.spec.action,
            self.spec.statistics,
            frameskip=self.model.frameskip,
            hold=settings.hold_actions,
            device=self.device,
        )

        def unroll(chunks_BNHA: Tensor) -> Latent:
            with autocast(settings.precision, self.device):
                return self.model.unroll_candidates(now, chunks_BNHA)

        objective = GoalDistance(then, "last", proprio_weight=settings.proprio_weight)
        generator = torch.Generator().manual_seed(seed)
        found = CEM(settings, space).plan(unroll, objective, generators=[generator])
        latents = unroll(found.chunks_BHA[:, None])
        return ActionPlan(
            actions=found.chunks_BHA[0].unflatten(-1, (self.model.frameskip, -1)).flatten(0, 1).cpu().numpy(),
            cost=float(objective(latents)),
            best_cost_per_iteration=found.best_cost_IB[:, 0].cpu().numpy(),
            latents=latents[0, 0],
        )


def load_agent(
    source: str | os.PathLike[str],
    checkpoint: str | None = None,
    *,
    device: str = "auto",
    encoder_weights: str | None = None,
) -> Agent:
    """A model by name or folder, ready to plan.

    Args:
        source: A published model (`jepa_wm_wall`, ...), or the folder of one of ours: a run, its `model`, or what
            `jepawm ckpt convert` wrote.
        checkpoint: Published models: a path, URL or `hf://` source of the file; None: fetched from the hub.
        device: `auto` (cuda, mps, cpu in this order) or a torch device.
        encoder_weights: Where the weights of a frozen backbone are; None: the published place, or the one they were
            trained from.

    Raises:
        ConfigError: Neither a folder nor a published model.
        CheckpointError: A file that cannot be had, is damaged, or is another model's.
    """
    name, place = os.fspath(source), pick_device(device)
    if name in ZOO:
        return Agent(*load_published_run(name, checkpoint, device=place, encoder_weights=encoder_weights))
    if os.path.isfile(name):
        raise ConfigError(f"{name} is a file; load it as jepawm.load(NAME, checkpoint='{name}') with the model's name")
    if not os.path.isdir(name):
        raise ConfigError(f"'{name}' is neither a folder nor a published model{did_you_mean(name, ZOO)}")
    if checkpoint is not None:
        raise ConfigError(f"{name} is a folder; checkpoint is for published models")
    inside = os.path.join(name, "model")
    folder = inside if os.path.isdir(inside) else name
    return Agent(*load_world_model(folder, place, encoder_weights=encoder_weights))


def _replaced(config: PlannerConfig, settings: Mapping[str, Any]) -> PlannerConfig:
    known = {item.name for item in dataclasses.fields(config)}
    for key in settings:
        if key not in known:
            raise ConfigError(f"plan: unknown setting '{key}'{did_you_mean(key, known)}")
    return dataclasses.replace(config, **settings)


def _pixels(observation: Observation) -> np.ndarray:
    pixels = np.asarray(_part(observation, "pixels"))
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ConfigError(f"observation['pixels'] must be uint8 [Y,X,3], found {pixels.dtype} {list(pixels.shape)}")
    return pixels


def _proprio(observation: Observation, width: int) -> np.ndarray:
    proprio = np.asarray(_part(observation, "proprio"), dtype=np.float32)
    if proprio.shape != (width,):
        raise ConfigError(f"observation['proprio'] must have shape [{width}], found {list(proprio.shape)}")
    return proprio


def _part(observation: Observation, name: str) -> Any:
    if name not in observation:
        raise ConfigError(f"the model reads observation['{name}'], found only {', '.join(observation) or 'nothing'}")
    return observation[name]
