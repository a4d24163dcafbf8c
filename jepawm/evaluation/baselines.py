"""Baselines that act without search, played on the same tasks as the plans they stand beside."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.agent import Agent
from jepawm.checkpoints.head_folder import heads_of_kind
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import RandomPlansConfig
from jepawm.errors import PlanningError
from jepawm.latent import Latent
from jepawm.planning import ActionSearchSpace, Plan
from jepawm.types import Observations
from jepawm.world_model import WorldModel

INVERSE_DYNAMICS = "inverse_dynamics"


class InverseDynamicsPolicy:
    """An agent that reads each chunk from the present and the goal, and searches nothing (GC-IDM).

    It has the methods of `jepawm.agent.Agent` that an evaluation calls. Where several chunks are asked for before the
    next observation, the world model predicts what comes of each, and the next chunk is read from the prediction.

    Args:
        model: The world model, in evaluation mode.
        spec: Bounds and statistics of its actions.
        head: The goal-conditioned inverse dynamics that was trained on the model's latents, on the model's device.

    Reference: GC-IDM, arXiv 2605.08732.
    """

    def __init__(self, model: WorldModel, spec: ModelSpec, head: nn.Module) -> None:
        self.model = model
        self.head = head
        # It encodes what an agent encodes; its planner is never asked.
        self._encoder = Agent(model, spec, RandomPlansConfig(), precision="float32")
        self._space = ActionSearchSpace(
            spec.action, spec.statistics, frameskip=model.frameskip, hold=False, device=self._encoder.device
        )
        self._now: Latent | None = None
        self._goals: Latent | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._encoder.device

    @property
    def last_plan(self) -> Plan | None:
        """None: nothing is searched."""
        return None

    def reset(self, observations: Observations, goals: Observations) -> None:
        """Begins a batch of episodes; see `Agent.reset`."""
        self._now = self._encoder.encode(observations)[:, -1]
        self._goals = self._encoder.encode(goals)[:, 0]

    @torch.no_grad()
    def act(self, generators: Sequence[torch.Generator], num_chunks: int | None = None) -> Float[Tensor, "B n A"]:
        """The chunks to execute.

        Args:
            generators: Not read: the policy is deterministic.
            num_chunks: Chunks to execute; None: one.

        Returns:
            `[B,n,A]` raw chunks, inside the bounds.

        Raises:
            PlanningError: `reset` was not called.
        """
        present, goals = self._begun()
        latents, chunks = present, [self._chunk(present, goals)]
        for _ in range((num_chunks or 1) - 1):
            latents = self.model.unroll(present[:, None], torch.stack(chunks, dim=1))[:, -1]
            chunks.append(self._chunk(latents, goals))
        return torch.stack(chunks, dim=1)

    def observe(self, observations: Observations) -> None:
        """Shows what was seen after the chunks were executed: `[B,m]`, the present last."""
        self._now = self._encoder.encode(observations)[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with the given rows of the batch alone; the other episodes have ended."""
        present, goals = self._begun()
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        self._now, self._goals = present[index], goals[index]

    def _chunk(self, latents: Latent, goals: Latent) -> Float[Tensor, "B A"]:
        normalised = self.head(latents.visual, goals.visual, latents.proprio, goals.proprio)
        return self._space.to_chunks(normalised)

    def _begun(self) -> tuple[Latent, Latent]:
        if self._now is None or self._goals is None:
            raise PlanningError(
                "InverseDynamicsPolicy.reset comes first: the policy knows no observations and no goals"
            )
        return self._now, self._goals


def learned_baselines(spec: ModelSpec) -> list[str]:
    """Names of the heads beside a model that act without search; none where there is no such head.

    Args:
        spec: What the model was read with; `spec.folder` holds its heads.

    Raises:
        CheckpointError: A head that is damaged, or that was trained on other weights.
    """
    return [] if spec.folder is None else heads_of_kind(spec.folder, INVERSE_DYNAMICS)
