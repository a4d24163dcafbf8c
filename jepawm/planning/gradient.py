"""Planners that follow the gradient of the cost through the unroll."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.planner import CEMGradientConfig, GradientConfig, GraspConfig
from jepawm.errors import ConfigError, PlanningError, did_you_mean
from jepawm.planning.base import Objective, Plan, Unroll, check_costs, draw_normal, score
from jepawm.planning.cem import CEM
from jepawm.planning.micro_batches import micro_batch_size
from jepawm.planning.rounds import Rounds, elites_of, start_of
from jepawm.planning.search_space import ActionSearchSpace

GradientPlannerConfig = GradientConfig | CEMGradientConfig | GraspConfig

# They compute one step for all numbers together, from several evaluations, or for sparse gradients: a plan would depend
# on the plans beside it.
COUPLED = ("Adafactor", "LBFGS", "Muon", "SparseAdam")


class GradientPlanner:
    """Improves many plans side by side with an optimiser of torch, and takes the cheapest.

    `a' = project(step(a, dC/da) + update_noise * e)`: after each update plans are projected into the bounds.

    Args:
        config: Starts, updates, optimiser.
        space: Bounds and units of what is searched.

    Raises:
        ConfigError: No such optimiser, one that couples plans, or options that it does not take.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983 (gradient descent on plans); Kingma and Ba 2015, Adam.
    """

    def __init__(self, config: GradientConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space
        make_optimizer(config, torch.zeros(1, requires_grad=True))

    @torch.no_grad()
    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        """Searches one plan per generator; see `Planner.plan`.

        Raises:
            PlanningError: Costs or gradients that no plan can follow, an unroll or objective that lets no gradient
                pass, or a warm start of another shape.
        """
        cfg, space = self.config, self.space
        centre_BHd = start_of(warm_start_BHd, len(generators), cfg.horizon, space)
        noise_BNHd = draw_normal(generators, (cfg.num_samples, cfg.horizon, space.dim), space.device)
        if cfg.keep_mean:
            noise_BNHd[:, 0] = 0
        rounds = Rounds()
        last_BNHd, cost_BN = descend(
            unroll,
            objective,
            space,
            centre_BHd[:, None] + cfg.init_std * noise_BNHd,
            config=cfg,
            num_updates=cfg.num_iterations if warm_start_BHd is None else cfg.num_iterations_warm,
            update_noise=cfg.update_noise,
            generators=generators,
            rounds=rounds,
        )
        if cfg.execute == "best":
            return rounds.plan(space, rounds.best_BHd)
        return rounds.plan(space, elites_of(last_BNHd, cost_BN, 1).search_BKHd[:, 0])


class CEMGradient:
    """The cross-entropy method; then its mean and best elites follow the gradient, and the cheapest plan is taken.

    Args:
        config: The cross-entropy method, plans that are refined, updates, optimiser.
        space: Bounds and units of what is searched.

    Raises:
        ConfigError: No such optimiser, one that couples plans, or options that it does not take.

    Reference: Bharadhwaj et al. 2020, Model-Predictive Control via Cross-Entropy and Gradient-Based Optimization,
        arXiv 2004.08763 (there the two alternate).
    """

    def __init__(self, config: CEMGradientConfig, space: ActionSearchSpace) -> None:
        self.config = config
        self.space = space
        self._cem = CEM(config, space)
        make_optimizer(config, torch.zeros(1, requires_grad=True))

    @torch.no_grad()
    def plan(
        self,
        unroll: Unroll,
        objective: Objective,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        """Searches one plan per generator; the costs of all iterations, then of all updates.

        Raises:
            PlanningError: Costs or gradients that no plan can follow, an unroll or objective that lets no gradient
                pass, or a warm start of another shape.
        """
        cfg = self.config
        rounds, mean_BHd, elites = self._cem.search(unroll, objective, generators, warm_start_BHd)
        start_BNHd = torch.cat([mean_BHd[:, None], elites.search_BKHd[:, : cfg.num_refined - 1]], dim=1)
        last_BNHd, _ = descend(
            unroll,
            objective,
            self.space,
            start_BNHd,
            config=cfg,
            num_updates=cfg.num_gradient_steps,
            update_noise=0.0,
            generators=generators,
            rounds=rounds,
        )
        return rounds.plan(self.space, last_BNHd[:, 0] if cfg.execute == "mean" else rounds.best_BHd)


@torch.no_grad()
def descend(
    unroll: Unroll,
    objective: Objective,
    space: ActionSearchSpace,
    start_BNHd: Float[Tensor, "B N H d"],
    *,
    config: GradientPlannerConfig,
    num_updates: int,
    update_noise: float,
    generators: Sequence[torch.Generator],
    rounds: Rounds,
) -> tuple[Float[Tensor, "B N H d"], Float[Tensor, "B N"]]:
    """Plans follow the gradient of their cost.

    Args:
        unroll: Raw chunks to latents.
        objective: Latents to cost.
        space: Search vectors to raw chunks.
        start_BNHd: `[B,N,H,d]` where plans start; projected first.
        config: The optimiser and its settings.
        num_updates: Updates.
        update_noise: Standard deviation of noise after each update; 0: no draw.
        generators: One per episode, for that noise.
        rounds: Takes the costs of the starts and of the plans after each update.

    Returns:
        `[B,N,H,d]` the plans after the last update, and `[B,N]` their costs.
    """
    search = space.project(start_BNHd).clone().requires_grad_()
    optimizer = make_optimizer(config, search)
    everybody, size = search.shape[1], config.max_candidates_per_forward
    for _ in range(num_updates):
        cost_BN, gradient_BNHd = cost_and_gradient(
            unroll, objective, space, search.detach(), max_candidates_per_forward=size
        )
        rounds.add(elites_of(search.detach(), cost_BN, everybody))
        search.grad = shortened(gradient_BNHd, config.max_gradient_norm)
        optimizer.step()
        if update_noise:
            search += update_noise * draw_normal(generators, tuple(search.shape[1:]), space.device)
        search.copy_(space.project(search))
    found_BNHd = search.detach()
    cost_BN = score(unroll, objective, space, found_BNHd, max_candidates_per_forward=size)
    rounds.add(elites_of(found_BNHd, cost_BN, everybody))
    return found_BNHd, cost_BN


def cost_and_gradient(
    unroll: Unroll,
    objective: Objective,
    space: ActionSearchSpace,
    search_BNHd: Float[Tensor, "B N H d"],
    *,
    max_candidates_per_forward: int | Literal["auto"] | None = None,
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N H d"]]:
    """Costs of plans and their gradients, in as many passes as memory asks for.

    Each pass frees its graph before the next one, so memory grows with `max_candidates_per_forward`, not with `N`.
    Gradients of the model's weights are not computed.

    Args:
        unroll: Raw chunks to latents.
        objective: Latents to cost.
        space: Search vectors to raw chunks.
        search_BNHd: `[B,N,H,d]` plans inside the bounds.
        max_candidates_per_forward: Plans per episode in one pass; `auto`: as many as free memory holds with their
            graph; None: all.

    Returns:
        `[B,N]` costs and `[B,N,H,d]` gradients.

    Raises:
        PlanningError: A cost or gradient that is not finite, all costs of an episode equal, or no gradient at all.
    """
    costs, gradients = [], []
    with torch.enable_grad():
        chunks_BNHA = space.to_chunks(search_BNHd.detach().requires_grad_(), clip=False)
        size = micro_batch_size(unroll, objective, chunks_BNHA, max_candidates_per_forward)
    for part in search_BNHd.split(size, dim=1):
        plans = part.detach().requires_grad_()
        with torch.enable_grad():
            cost = objective(unroll(space.to_chunks(plans, clip=False))).float()
        gradients.append(gradient_of(cost, plans))
        costs.append(cost.detach())
    cost_BN, gradient_BNHd = torch.cat(costs, dim=1), torch.cat(gradients, dim=1)
    check_costs(cost_BN, search_BNHd)
    check_gradient(gradient_BNHd)
    return cost_BN, gradient_BNHd


def gradient_of(cost_BN: Float[Tensor, "B N"], plans_BNHd: Float[Tensor, "B N H d"]) -> Float[Tensor, "B N H d"]:
    """The gradient of each plan's cost.

    Raises:
        PlanningError: No gradient passes from the cost to the plans.
    """
    gradient = None
    if cost_BN.requires_grad:
        (gradient,) = torch.autograd.grad(cost_BN, plans_BNHd, torch.ones_like(cost_BN), allow_unused=True)
    if gradient is None:
        raise PlanningError(
            "the cost lets no gradient pass to the actions, and this planner follows it; unroll and objective must "
            "be differentiable (no torch.no_grad, torch.inference_mode or detach inside), or choose a planner that "
            "needs no gradients, such as planner.name 'cem'"
        )
    return gradient


def check_gradient(gradient_BNHd: Float[Tensor, "B N H d"]) -> None:
    """Refuses a gradient that no plan can follow.

    Raises:
        PlanningError: A number that is not finite.
    """
    bad = ~torch.isfinite(gradient_BNHd).all(dim=-1).all(dim=-1)
    if bool(bad.any()):
        row, column = (int(value) for value in bad.nonzero()[0])
        raise PlanningError(
            f"the gradient of candidate {column} of episode {row} in the batch is not finite, though its cost is; "
            "lower planner.learning_rate, or choose a planner that needs no gradients, such as planner.name 'cem'"
        )


def shortened(gradient_BNHd: Float[Tensor, "B N H d"], max_gradient_norm: float | None) -> Float[Tensor, "B N H d"]:
    """Gradients of plans, the ones that are longer than `max_gradient_norm` scaled down to it; None: as they are."""
    if max_gradient_norm is None:
        return gradient_BNHd
    norm = gradient_BNHd.flatten(2).norm(dim=2)[:, :, None, None]
    return gradient_BNHd * (max_gradient_norm / norm.clamp_min(1e-12)).clamp_max(1.0)


def make_optimizer(config: GradientPlannerConfig, plans: Tensor) -> torch.optim.Optimizer:
    """The optimiser that a configuration names, over some plans.

    Raises:
        ConfigError: No such optimiser, one that couples plans, or options that it does not take.
    """
    known = {
        name: each
        for name, each in vars(torch.optim).items()
        if isinstance(each, type) and issubclass(each, torch.optim.Optimizer) and each is not torch.optim.Optimizer
    }
    if config.optimizer in COUPLED:
        raise ConfigError(
            f"planner.optimizer: '{config.optimizer}' does not update each number by itself, so a plan would depend on "
            "the plans beside it; use Adam, SGD, RMSprop or another that does"
        )
    if config.optimizer not in known:
        raise ConfigError(
            f"planner.optimizer: torch.optim has no '{config.optimizer}'"
            f"{did_you_mean(config.optimizer, set(known) - set(COUPLED))}"
        )
    try:
        optimizer: torch.optim.Optimizer = known[config.optimizer]([plans], **config.optimizer_arguments())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"planner.optimizer_options: torch.optim.{config.optimizer} refuses {list(config.optimizer_options)} "
            f"with learning rate {config.learning_rate}: {error}"
        ) from error
    return optimizer
