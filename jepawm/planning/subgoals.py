"""Two levels: a search over macro-actions makes the goals that plans aim at."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.objective import Weighting
from jepawm.config.subgoals import MacroSubgoalsConfig, SubgoalConfig
from jepawm.config.tagged import import_object
from jepawm.errors import PlanningError
from jepawm.latent import Latent
from jepawm.planning.base import Objective, Plan, Planner
from jepawm.planning.mpc import MPC
from jepawm.planning.registry import build_planner
from jepawm.planning.search_space import ActionSearchSpace
from jepawm.types import ActionSpec, Statistics

ObjectiveOf = Callable[[Latent, Weighting], Objective]
"""Makes the cost of predicted latents `[B,N,H]` from goals `[B]` and a weighting over the `H` latents."""


@runtime_checkable
class HighLevelModel(Protocol):
    """A world model whose steps are several model steps long. `jepawm.macro_model.MacroModel` is one."""

    num_model_steps: int

    def unroll(self, now: Latent, macros_BNHd: Tensor) -> Latent:
        """Latents `[B]` and macro-actions `[B,N,H,d]` to predicted latents `[B,N,H]`."""
        ...

    def macro_spec(self) -> ActionSpec:
        """Width and bounds of a macro-action, in standard deviations of the data."""
        ...


@runtime_checkable
class Subgoals(Protocol):
    """Says what the plans of a batch of episodes aim at."""

    def reset(self) -> None:
        """Begins a batch of episodes."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with the given rows of the batch alone."""
        ...

    def executed(self, num_chunks: int) -> None:
        """Is told how many chunks of the last plans were executed."""
        ...

    def towards(
        self, now: Latent, goals: Latent, objective_of: ObjectiveOf, generators: Sequence[torch.Generator]
    ) -> Latent:
        """What the next plans aim at.

        Args:
            now: Latents `[B]` of the present.
            goals: Latents `[B]` of the goals.
            objective_of: Makes the cost of predicted latents.
            generators: One per episode: all that is random in its subgoal.

        Returns:
            Latents `[B]`.
        """
        ...


class MacroSubgoals:
    """Aims at the latents that the first of a few macro-actions is predicted to lead to.

    A subgoal is kept while the chunks of its macro-action are executed, and then the next one is searched. Where
    a search's prediction comes nearest to the goal after its first macro-action, and where the search is a single
    macro-action long, the goal itself is aimed at.

    Args:
        config: The search, and its cost.
        model: What macro-actions lead to.
        device: Where the model is.

    Attributes:
        last_plan: Macro-actions of the last search; None before the first one of a batch.

    Reference: HWM, arXiv 2604.03208.
    """

    def __init__(self, config: MacroSubgoalsConfig, model: HighLevelModel, device: torch.device | str) -> None:
        self.config = config
        self.model = model
        self._space = macro_space(model.macro_spec(), device)
        shorter = self._planner if config.horizon == "shrinking" else None
        self._mpc = MPC(self._planner(config.planner.horizon), replan_every=1, shorter_planner=shorter)
        self._chunks_left = 0
        self._subgoals: Latent | None = None
        self.last_plan: Plan | None = None

    def reset(self) -> None:
        """Begins a batch of episodes."""
        self._mpc.reset()
        self._chunks_left = 0
        self._subgoals = self.last_plan = None

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with the given rows of the batch alone."""
        self._mpc.keep(rows)
        if self._subgoals is not None:
            self._subgoals = self._subgoals[torch.as_tensor(rows, dtype=torch.int64, device=self._space.device)]

    def executed(self, num_chunks: int) -> None:
        """Is told how many chunks of the last plans were executed."""
        self._chunks_left = max(0, self._chunks_left - num_chunks)

    @torch.no_grad()
    def towards(
        self, now: Latent, goals: Latent, objective_of: ObjectiveOf, generators: Sequence[torch.Generator]
    ) -> Latent:
        """What the next plans aim at; see `Subgoals.towards`.

        Raises:
            PlanningError: Costs that no macro-actions can be chosen from.
        """
        if self._subgoals is None or not self._chunks_left:
            self._subgoals = self._search(now, goals, objective_of(goals, self.config.weighting), generators)
            self._chunks_left = self.model.num_model_steps
        return self._subgoals

    def _search(
        self, now: Latent, goals: Latent, objective: Objective, generators: Sequence[torch.Generator]
    ) -> Latent:
        plan = self.last_plan = self._mpc.plan(lambda macros: self.model.unroll(now, macros), objective, generators)
        predicted = self.model.unroll(now, plan.chunks_BHA[:, None])
        # A plan of one latent costs what that latent is away, whatever the weighting.
        horizon = plan.chunks_BHA.shape[1]
        cost_BH = torch.cat([objective(predicted[:, :, h : h + 1]) for h in range(horizon)], dim=1)
        arrives_B = cost_BH.argmin(dim=1) == 0
        return _chosen(arrives_B, goals, predicted[:, 0, 0])

    def _planner(self, horizon: int) -> Planner:
        return build_planner(replace(self.config.planner, horizon=horizon), self._space)


def macro_space(spec: ActionSpec, device: torch.device | str) -> ActionSearchSpace:
    """The space of macro-actions: each plan's chunk is one macro-action, in standard deviations of the data."""
    zeros, ones = (np.full(spec.dim, value, np.float32) for value in (0, 1))
    return ActionSearchSpace(spec, Statistics(zeros, ones, zeros, ones), frameskip=1, hold=True, device=device)


def build_subgoals(
    config: SubgoalConfig, head_of: Callable[[str], object], device: torch.device | str
) -> Subgoals | None:
    """What a configuration's plans aim at.

    Args:
        config: Which kind, and its settings.
        head_of: A head of the world model by its name, on `device`.
        device: Where the world model is.

    Returns:
        What makes subgoals; None where plans aim at the goal itself.

    Raises:
        PlanningError: A head that predicts no macro-actions.
    """
    found: Subgoals | None = import_object(config.implementation, "subgoals.name")(config, head_of, device)
    return found


def no_subgoals(*_: object) -> None:
    """Plans aim at the goal itself."""


def macro_subgoals(
    config: MacroSubgoalsConfig, head_of: Callable[[str], object], device: torch.device | str
) -> MacroSubgoals:
    """Two levels, with the head that the configuration names."""
    model = head_of(config.head)
    if not isinstance(model, HighLevelModel):
        raise PlanningError(
            f"subgoals.head '{config.head}' is a {type(model).__name__}, which predicts nothing from macro-actions; "
            "name a head of kind macro (jepawm train-head --head.name macro)"
        )
    return MacroSubgoals(config, model, device)


def _chosen(first_B: Tensor, first: Latent, second: Latent) -> Latent:
    """Latents `[B]`, each of the first where it is chosen, else of the second."""
    rows: Float[Tensor, "B 1 1"] = first_B[:, None, None]
    proprio = None
    if first.proprio is not None and second.proprio is not None:
        proprio = torch.where(rows, first.proprio, second.proprio)
    return Latent(torch.where(rows, first.visual, second.visual), proprio)
