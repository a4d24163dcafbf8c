"""The agent: a world model, an objective and a planner behind one batch-first object.

An agent is told where its episodes start and where they should end (`reset`), says what to do next (`act`), and is
shown what came of it (`observe`). `Agent.plan` is one plan for one episode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.agent.context import Context
from jepawm.agent.inputs import Goal, Observation, batch_of_one, picture_goal
from jepawm.checkpoints.head_folder import load_head
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config.objective import ObjectiveConfig, Weighting
from jepawm.config.planner import PlannerConfig, Precision
from jepawm.config.subgoals import SubgoalConfig
from jepawm.config.yaml_io import override
from jepawm.device import autocast
from jepawm.engine import PlanningUnroll, UnrollSettings
from jepawm.engine.cuda_graphs import CudaGraphs
from jepawm.errors import ConfigError, PlanningError
from jepawm.latent import Latent
from jepawm.planning import (
    MPC,
    ActionSearchSpace,
    Objective,
    Plan,
    Planner,
    Subgoals,
    build_objective,
    build_planner,
    build_subgoals,
)
from jepawm.planning.base import CheckedAtTheEnd
from jepawm.types import Observations
from jepawm.world_model import WorldModel

Starts = Callable[[Latent, Latent], Tensor]
"""Observed latents `[B,T]` (the present last) and what plans aim at `[B]` to raw chunks `[B,M,H,A]` of plans to start
from: of a policy, or of the recorded windows whose latents are nearest."""


@dataclass(frozen=True)
class ActionPlan:
    """One plan for one episode, and what the model expects of it.

    Attributes:
        actions: `[H*frameskip,a]` float32, one row an environment step, raw units, inside the bounds.
        cost: Cost of the plan, as the planner measured it.
        best_cost_per_iteration: `[I]` lowest cost among each iteration's candidates.
        mean_elite_cost_per_iteration: `[I]` mean cost of each iteration's elites; of all candidates where the planner
            has no elites.
        latents: `[H]` predicted latents, one after each chunk of `frameskip` actions; a decoder draws them.
        aim: Latent `[]` that the plan is to reach: the goal's, or a subgoal's on the way to it.
        planner: Which planner made it: its kind (`planner.name`), or the class of a planner of the caller's own.
    """

    actions: np.ndarray
    cost: float
    best_cost_per_iteration: np.ndarray
    mean_elite_cost_per_iteration: np.ndarray
    latents: Latent
    aim: Latent
    planner: str


class Agent:
    """A world model, an objective and a planner, for a batch of episodes at once.

    Args:
        model: The world model, in evaluation mode.
        spec: What fixes it besides its weights: the bounds and statistics of its actions.
        planner: The search, as a configuration or a planner that is built already; None: the model's own.
        objective: The cost of a candidate, as a configuration or a callable that makes an objective of goal latents
            `[B]`; None: the model's own.
        replan_every: Chunks that are executed of a plan; None: all of it.
        subgoals: What plans aim at on the way to the goal, as a configuration or built already; None: at the goal.
        warm_start: Start a replan from the unexecuted rest of the last plan; off: every search starts afresh.
        starts: Gives further plans to start from, before every plan; the search starts from the cheapest.
        shrinking_horizon: End a replan where the plan before it ended, see `jepawm.planning.MPC`.
        precision: Number format of encoding and unrolling; None: the planner's, float32 for one that is built already.
        heads: Heads of the model that were read already, by name; `head` reads the others from the model's folder.
        say: Told an estimate of the memory that planning takes, once, before the first search; None: nobody is.

    Attributes:
        model: The world model: `encode`, `predict`, `unroll`.
        spec: Statistics and bounds.
        planner: The search.
        objective: The cost of a candidate.
        subgoals: What plans aim at on the way to the goal.
        precision: Number format of encoding and unrolling.
        last_plan: What `act` chose last, with the costs of its iterations; None before the first plan of a batch.
    """

    def __init__(
        self,
        model: WorldModel,
        spec: ModelSpec,
        planner: PlannerConfig | Planner | None = None,
        objective: ObjectiveConfig | Callable[[Latent], Objective] | None = None,
        *,
        subgoals: SubgoalConfig | Subgoals | None = None,
        replan_every: int | None = None,
        warm_start: bool = True,
        starts: Starts | None = None,
        shrinking_horizon: bool = False,
        precision: Precision | None = None,
        heads: Mapping[str, nn.Module] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.model = model
        self.spec = spec
        self.planner = planner or spec.planner
        self.objective = objective or spec.objective
        self._asked_precision = precision
        search = self.planner
        compiled = graphs = False
        if isinstance(search, PlannerConfig):
            self.precision = precision or search.precision
            compiled, graphs = search.compile, search.cuda_graphs
            search = build_planner(search, self._search_space(search))
        else:
            self.precision = precision or "float32"
        self._unrolling = UnrollSettings(self.precision, compiled, CudaGraphs() if graphs else None, say)
        self._starts = starts
        shorter = self._shorter_planner if shrinking_horizon else None
        self._mpc = MPC(search, replan_every=replan_every, warm_start=warm_start, shorter_planner=shorter)
        self.subgoals = subgoals
        # A configuration names a head, which is read when the first batch begins.
        self._subgoals = None if isinstance(subgoals, SubgoalConfig) else subgoals
        self.last_plan: Plan | None = None
        self._context: Context | None = None
        self._goals: Latent | None = None
        self._aims: Latent | None = None
        self._executed_BnA: Tensor | None = None
        self._heads: dict[str, nn.Module] = dict(heads or {})

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.action_mean.device

    @torch.no_grad()
    def encode(self, observations: Observations | Observation | Sequence[Observation]) -> Latent:
        """Latents `[B,T]` of observations, in the planner's precision.

        Args:
            observations: A batch; or one observation, or several that follow each other a model step apart (`B = 1`).

        Raises:
            ConfigError: An observation that lacks what the model reads, or of a wrong shape.
        """
        if not isinstance(observations, Observations):
            observations = self.observations(
                [observations] if isinstance(observations, Mapping) else list(observations)
            )
        # Arrays that came through Ray's object store are read-only, which torch warns of; copies are not.
        pixels_BTCYX = torch.from_numpy(np.array(observations.pixels)).to(self.device).movedim(-1, 2)
        proprio_BTR = None
        if self.model.uses_proprio and observations.proprio is not None:
            proprio_BTR = torch.from_numpy(np.array(observations.proprio)).to(self.device)
        with autocast(self.precision, self.device):
            return self.model.encode(pixels_BTCYX, proprio_BTR)

    def reset(self, observations: Observations, goals: Observations) -> None:
        """Begins a batch of episodes.

        Args:
            observations: `[B,T]` what the agents see, the present last; `T` is 1 at an episode's start.
            goals: `[B,1]` what they should see at the end; without proprio, plans are judged by visual latents alone.

        Raises:
            PlanningError: Another number of goals than of observations, or a head that gives no subgoals.
            CheckpointError: No head of the name that makes subgoals.
        """
        if len(goals.pixels) != len(observations.pixels):
            raise PlanningError(
                f"Agent.reset needs a goal for each episode: found {len(goals.pixels)} goals and observations of "
                f"{len(observations.pixels)} episodes"
            )
        self._context = Context(self.model.context_window, self.encode(observations))
        self._goals = self._encode_goals(goals)
        self._aims = self._executed_BnA = None
        self.last_plan = None
        self._mpc.reset()
        if isinstance(self.subgoals, SubgoalConfig) and self._subgoals is None:
            self._subgoals = build_subgoals(self.subgoals, self.head, self.device)
        if self._subgoals is not None:
            self._subgoals.reset()
        self._tell_memory()

    def act(self, generators: Sequence[torch.Generator], num_chunks: int | None = None) -> Float[Tensor, "B n A"]:
        """Plans from the present and returns the chunks to execute.

        Args:
            generators: One per episode: all that is random in its plan.
            num_chunks: Chunks to execute, 1 to the horizon; None: `replan_every`.

        Returns:
            `[B,n,A]` raw chunks, inside the bounds.

        Raises:
            PlanningError: Costs that no plan can be chosen from, `reset` was not called, another number of generators
                than of episodes, or a `num_chunks` that no plan has.
        """
        episodes = self._begun().latents.lead[0]
        if len(generators) != episodes:
            raise PlanningError(
                f"Agent.act needs a generator for each episode: found {len(generators)} for {episodes} episodes"
            )
        plan = self.last_plan = self._search(generators, num_chunks)
        self._executed_BnA = plan.chunks_BHA[:, : self._mpc.replan_every if num_chunks is None else num_chunks]
        if self._subgoals is not None:
            self._subgoals.executed(self._executed_BnA.shape[1])
        return self._executed_BnA

    def observe(self, observations: Observations) -> None:
        """Shows what was seen after the chunks that `act` returned were executed.

        Args:
            observations: `[B,m]` what was seen after each of the last `m` chunks. The model looks back
                `context_window` model steps, so `m` is at least that many or all of the `n` chunks.

        Raises:
            PlanningError: `reset` or `act` was not called before, or observations of other episodes or chunks.
        """
        context = self._begun()
        if self._executed_BnA is None:
            raise PlanningError("Agent.observe shows what came of Agent.act, which was not called before it")
        (episodes, seen), executed = observations.pixels.shape[:2], self._executed_BnA.shape[1]
        fewest = min(executed, context.window)
        if episodes != len(self._executed_BnA) or not fewest <= seen <= executed:
            span = str(executed) if fewest == executed else f"{fewest} to {executed}"
            raise PlanningError(
                f"Agent.observe needs what was seen after each of the last {span} chunks of {len(self._executed_BnA)} "
                f"episodes, found {seen} frames of {episodes} episodes"
            )
        context.append(self.encode(observations), self._executed_BnA)
        self._executed_BnA = None

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with the given rows of the batch alone, before or after `observe`; the other episodes have ended."""
        context = self._begun()
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        context.select(index)
        self._goals = None if self._goals is None else self._goals[index]
        self._executed_BnA = None if self._executed_BnA is None else self._executed_BnA[index]
        self._mpc.keep(rows)
        if self._subgoals is not None:
            self._subgoals.keep(rows)

    @torch.no_grad()
    def imagined_cost(self, chunks_BNHA: Float[Tensor, "B N H A"]) -> Float[Tensor, "B N"]:
        """The cost of candidates by the latents that the model predicts for them, from each episode's present."""
        return self._goal_objective()(self._unroll()(chunks_BNHA)).float()

    @torch.no_grad()
    def cost_of(self, latents: Latent) -> Float[Tensor, "B N"]:
        """The cost of latents `[B,N,H]` that came after each chunk of a candidate, e.g. of frames that were seen."""
        return self._goal_objective()(latents).float()

    def plan(self, observation: Observation, goal: Goal, *, seed: int = 0, **settings: Any) -> ActionPlan:
        """Searches the actions whose predicted end is nearest to the goal: one episode, one plan.

        A batch that was begun with `reset` is left as it is.

        Args:
            observation: The present.
            goal: What should be observed at the end: an observation, or a picture.
            seed: Of the search; equal seeds give equal plans.
            **settings: Settings of the planner or the objective in place of the agent's own: `num_samples=64`, or
                `name="random_shooting"` for another planner.

        Raises:
            ConfigError: A wrong observation, or a setting that does not exist.
            DataError: A picture that cannot be read, or a file with more than one.
            PlanningError: Costs that no plan can be chosen from.
        """
        agent = self._with(settings)
        agent._heads = self._heads
        return agent._plan_one(observation, goal, seed)

    def head(self, name: str) -> nn.Module:
        """A head that was trained on the model's latents (`jepawm train-head`), on the model's device; read once.

        Args:
            name: Of its folder in the model's `heads`.

        Raises:
            ConfigError: The model was read from no folder of ours.
            CheckpointError: No such head, or one of other weights.
        """
        if name not in self._heads:
            if self.spec.folder is None:
                raise ConfigError(
                    f"head '{name}': heads lie in a model's folder, and this model was read from none; write it into "
                    "one first (jepawm ckpt convert)"
                )
            self._heads[name] = load_head(self.spec.folder, name, self.device)[0]
        return self._heads[name]

    def observations(self, frames: Sequence[Observation]) -> Observations:
        """Single observations that follow each other a model step apart, as a batch of one.

        Args:
            frames: What an environment returned.

        Raises:
            ConfigError: An observation without `pixels` (or the `proprio` that the model reads), or of a wrong shape.
        """
        return batch_of_one(frames, self.model.proprio_dim if self.model.uses_proprio else None)

    # -- inside ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _plan_one(self, observation: Observation, goal: Goal, seed: int) -> ActionPlan:
        present = self.observations([observation])
        self.reset(
            present,
            self.observations([goal]) if isinstance(goal, Mapping) else picture_goal(goal, self.model.image_size),
        )
        plan = self._search([torch.Generator().manual_seed(seed)])
        latents = self._unroll()(plan.chunks_BHA[:, None])
        assert self._aims is not None, "a search has one"
        return ActionPlan(
            actions=plan.chunks_BHA[0].unflatten(-1, (self.model.frameskip, -1)).flatten(0, 1).cpu().numpy(),
            cost=float(self._objective_of(self._aims)(latents)),
            best_cost_per_iteration=plan.best_cost_IB[:, 0].cpu().numpy(),
            mean_elite_cost_per_iteration=plan.mean_elite_cost_IB[:, 0].cpu().numpy(),
            latents=latents[0, 0],
            aim=self._aims[0],
            planner=self.planner.name if isinstance(self.planner, PlannerConfig) else type(self.planner).__name__,
        )

    def _encode_goals(self, goals: Observations) -> Latent:
        """Latents `[B]` of goals; the visual part alone where a goal's proprio is not known."""
        if not self.model.uses_proprio or goals.proprio is not None:
            return self.encode(goals)[:, 0]
        # The visual part does not depend on proprio.
        unread = np.zeros((*goals.pixels.shape[:2], self.model.proprio_dim), np.float32)
        return Latent(self.encode(replace(goals, proprio=unread)).visual[:, 0])

    def _with(self, settings: Mapping[str, Any]) -> "Agent":
        """An agent of the same model with some settings of planner and objective changed, and no batch begun."""
        precision = None if "precision" in settings else self._asked_precision
        if not settings:
            return Agent(
                self.model, self.spec, self.planner, self.objective, subgoals=self.subgoals, precision=precision
            )
        if not (isinstance(self.planner, PlannerConfig) and isinstance(self.objective, ObjectiveConfig)):
            raise ConfigError(
                f"agent.plan: {', '.join(settings)} cannot be changed, for the agent was made with a planner or an "
                "objective that is built already; change those"
            )
        of_objective = {item.name for item in fields(ObjectiveConfig)}
        objective = {key: value for key, value in settings.items() if key in of_objective}
        planner = {key: value for key, value in settings.items() if key not in of_objective}
        return Agent(
            self.model,
            self.spec,
            override(self.planner, planner, "agent.plan"),
            override(self.objective, objective, "agent.plan"),
            subgoals=self.subgoals,
            precision=precision,
        )

    def _search_space(self, planner: PlannerConfig) -> ActionSearchSpace:
        return ActionSearchSpace(
            self.spec.action,
            self.spec.statistics,
            frameskip=self.model.frameskip,
            hold=planner.hold_actions,
            limits=planner.action_limits,
            device=self.device,
        )

    def _shorter_planner(self, horizon: int) -> Planner:
        if not isinstance(self.planner, PlannerConfig):
            raise ConfigError("a shrinking horizon needs a planner's settings, found a planner that is built already")
        return build_planner(replace(self.planner, horizon=horizon), self._search_space(self.planner))

    @torch.no_grad()
    def _search(self, generators: Sequence[torch.Generator], num_chunks: int | None = None) -> Plan:
        self._aims = self._next_aims(generators)
        starts_BMHA = None if self._starts is None else self._starts(self._begun().latents, self._aims)
        unroll, objective = self._unroll(), self._objective_of(self._aims)
        if self.device.type != "cuda":
            return self._mpc.plan(unroll, objective, generators, num_chunks, starts_BMHA=starts_BMHA)
        checked = CheckedAtTheEnd(objective)
        plan = self._mpc.plan(unroll, checked, generators, num_chunks, starts_BMHA=starts_BMHA)
        checked.check()
        return plan

    def _unroll(self) -> PlanningUnroll:
        """Latents of candidates from the present; records a graph where a planner enables gradients."""
        context = self._begun()
        return PlanningUnroll(self.model, context.latents, context.actions_BLA, self._unrolling)

    def _tell_memory(self) -> None:
        """Says once what a search will take of memory, before the first plan, so that no plan's time includes it."""
        planner = self.planner
        if self._unrolling.say is None or not isinstance(planner, PlannerConfig):
            return
        episodes, width = self._begun().latents.lead[0], self.model.action_dim
        shape = (episodes, getattr(planner, "num_samples", 1), planner.horizon, width)
        chunks_BNHA = torch.zeros(shape, device=self.device)
        self._unroll().candidates_per_forward(self._goal_objective(), chunks_BNHA, planner.max_candidates_per_forward)

    def _goal_objective(self) -> Objective:
        """The cost by the distance to the goals themselves."""
        self._begun()
        assert self._goals is not None, "reset sets both"
        return self._objective_of(self._goals)

    def _objective_of(self, goals: Latent, weighting: Weighting | None = None) -> Objective:
        """The cost by the distance to latents `[B]`; `weighting`: in place of the objective's own."""
        if not isinstance(self.objective, ObjectiveConfig):
            return self._of_known_parts(self.objective(goals), goals)
        config = self.objective if weighting is None else replace(self.objective, weighting=weighting)
        temporal = self.head(config.head) if config.distance == "temporal" else None
        return self._of_known_parts(build_objective(config, goals, temporal), goals)

    def _of_known_parts(self, objective: Objective, goals: Latent) -> Objective:
        """The objective, of visual latents alone where the goals have no proprio."""
        return _VisualAlone(objective) if self.model.uses_proprio and goals.proprio is None else objective

    def _next_aims(self, generators: Sequence[torch.Generator]) -> Latent:
        """Latents `[B]` that the next plans are to reach: subgoals, or the goals themselves."""
        assert self._goals is not None, "reset sets them"
        if self._subgoals is None:
            return self._goals
        return self._subgoals.towards(self._begun().latents[:, -1], self._goals, self._objective_of, generators)

    def _begun(self) -> Context:
        if self._context is None:
            raise PlanningError("Agent.reset comes first: the agent knows no observations and no goals")
        return self._context


class _VisualAlone:
    """An objective that sees the visual part of predicted latents alone, as its goal has no other.

    Args:
        objective: Latents to cost.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __call__(self, latents: Latent) -> Tensor:
        return self._objective(Latent(latents.visual))
