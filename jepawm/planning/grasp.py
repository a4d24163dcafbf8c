"""A planner that follows gradients of single model steps, over actions and virtual latents between them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.planner import GraspConfig
from jepawm.errors import PlanningError
from jepawm.latent import Latent
from jepawm.planning.base import Objective, Plan, StepUnroll, Unroll, draw_normal, score
from jepawm.planning.gradient import check_gradient, descend, gradient_of, make_optimizer, shortened
from jepawm.planning.micro_batches import micro_batch_size
from jepawm.planning.rounds import Rounds, elites_of, start_of
from jepawm.planning.search_space import ActionSearchSpace


class GRASP:
    """Gradient relaxed stochastic planner: actions and the latents between them are searched together.

    The latents `s[1] ... s[H-1]` on the way are variables of their own, and each model step `f` starts from one of
    them. With `p[h] = f(s[h], a[h])`, `s[0]` the present:

    `L = cost(p) + dynamics_weight * sum over h < H-1 of |p[h] - s[h+1]|^2 + goal_weight * sum over h of cost(p[h])`

    No gradient passes into `s[h]` as an input of `f`, so none passes through more than one model step, and all steps
    are one batch. An update moves actions along `dL/da` with an optimiser of torch, and `s[h+1]` a share of the way to
    `p[h]`, with noise. Every few updates the plan follows the gradient of its own cost through the whole unroll, and
    the latents of that unroll become the virtual ones.

    Args:
        config: Starts, updates, weights, optimiser.
        space: Bounds and units of what is searched.

    Raises:
        ConfigError: No such optimiser, one that couples plans, or options that it does not take.

    Reference: Psenka et al. 2026, Parallel Stochastic Gradient-Based Planning for World Models, arXiv 2602.00475. There
        `|.|^2` is a sum, here the mean over the numbers of a latent; virtual latents begin as an unroll of the first
        plan; noise is in units of what the unroll changes in a model step. Weights, step sizes and noise are ours.
    """

    def __init__(self, config: GraspConfig, space: ActionSearchSpace) -> None:
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

        The plan is the cheapest one that was unrolled. The costs are those of the starts, and of what they became
        before and after each update through the whole unroll.

        Raises:
            PlanningError: An unroll that predicts no single steps, costs or gradients that no plan can follow, an
                unroll or objective that lets no gradient pass, or a warm start of another shape.
        """
        if not isinstance(unroll, StepUnroll):
            raise PlanningError(
                "planner.name 'grasp' predicts single model steps from latents of its own, and this "
                f"{type(unroll).__name__} has no method `steps` for them, as an Agent's unroll has; choose another "
                "planner, such as planner.name 'gradient'"
            )
        cfg, space = self.config, self.space
        centre_BHd = start_of(warm_start_BHd, len(generators), cfg.horizon, space)
        noise_BNHd = draw_normal(generators, (cfg.num_samples, cfg.horizon, space.dim), space.device)
        noise_BNHd[:, 0] = 0
        search_BNHd = space.project(centre_BHd[:, None] + cfg.init_std * noise_BNHd)
        rounds, size = Rounds(), cfg.max_candidates_per_forward
        cost_BN = score(unroll, objective, space, search_BNHd, max_candidates_per_forward=size)
        rounds.add(elites_of(search_BNHd, cost_BN, cfg.num_samples))
        left = cfg.num_iterations if warm_start_BHd is None else cfg.num_iterations_warm
        while left:
            num_updates = min(left, cfg.sync_every)
            left -= num_updates
            search_BNHd = self._relaxed(unroll, objective, search_BNHd, num_updates, generators)
            search_BNHd, _ = descend(
                unroll,
                objective,
                space,
                search_BNHd,
                config=cfg,
                num_updates=cfg.num_sync_updates,
                update_noise=0.0,
                generators=generators,
                rounds=rounds,
            )
        return rounds.plan(space, rounds.best_BHd)

    def _relaxed(
        self,
        unroll: StepUnroll,
        objective: Objective,
        search_BNHd: Float[Tensor, "B N H d"],
        num_updates: int,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "B N H d"]:
        """Plans after updates that follow single model steps; virtual latents begin as those of the plans' unroll."""
        cfg, space = self.config, self.space
        search = search_BNHd.clone().requires_grad_()
        optimizer = make_optimizer(cfg, search)
        with torch.enable_grad():
            chunks_BNHA = space.to_chunks(search, clip=False)
            size = micro_batch_size(unroll, objective, chunks_BNHA, cfg.max_candidates_per_forward)
        # A whole unroll keeps the graph of one model step at a time, a pass of single steps that of all.
        everybody = cfg.max_candidates_per_forward is None and size == cfg.num_samples
        width = size if everybody else max(1, size // cfg.horizon)
        parts = chunks_BNHA.detach().split(size, dim=1)
        unrolled = _joined([unroll(part) for part in parts])
        virtual = _mapped(lambda latents: latents[:, :, :-1], unrolled)
        change = _mapped(_change_of_a_step, unrolled)
        for _ in range(num_updates):
            gradient, predicted = self._gradient(unroll, objective, search.detach(), virtual, width)
            search.grad = shortened(gradient, cfg.max_gradient_norm)
            optimizer.step()
            search.copy_(space.project(search))
            virtual = _mapped(
                lambda latents, to, scale: self._moved(latents, to[:, :, :-1], scale, generators),
                virtual,
                predicted,
                change,
            )
        return search.detach()

    def _gradient(
        self, unroll: StepUnroll, objective: Objective, search_BNHd: Tensor, virtual: Any, size: int
    ) -> tuple[Float[Tensor, "B N H d"], Any]:
        """`dL/da`, and the predicted latents `[B,N,H]`; in passes of `size` candidates, each with its own graph."""
        gradients, predictions = [], []
        for first in range(0, search_BNHd.shape[1], size):
            here = slice(first, first + size)
            plans = search_BNHd[:, here].detach().requires_grad_()
            held = _mapped(lambda latents, here=here: latents[:, here], virtual)
            with torch.enable_grad():
                predicted = unroll.steps(held, self.space.to_chunks(plans, clip=False))
                loss_BN = objective(predicted).float()
                if self.config.goal_weight:
                    # A plan of one latent costs what that latent is away, whatever the weighting over model steps.
                    alone = [
                        objective(_mapped(lambda latents, h=h: latents[:, :, h : h + 1], predicted))
                        for h in range(self.config.horizon)
                    ]
                    loss_BN = loss_BN + self.config.goal_weight * torch.stack(alone).float().sum(dim=0)
                for to, latents in zip(_parts(predicted), _parts(held), strict=True):
                    apart = (to[:, :, :-1] - latents).float().square().flatten(3)
                    loss_BN = loss_BN + self.config.dynamics_weight * apart.mean(dim=-1).sum(dim=-1)
            gradients.append(gradient_of(loss_BN, plans))
            predictions.append(_mapped(Tensor.detach, predicted))
        gradient_BNHd = torch.cat(gradients, dim=1)
        check_gradient(gradient_BNHd)
        return gradient_BNHd, _joined(predictions)

    def _moved(
        self, latents: Tensor, predicted: Tensor, change_B: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Virtual latents after an update: nearer to what the steps before them predict, with noise."""
        moved = torch.lerp(latents.float(), predicted.float(), self.config.virtual_step)
        if self.config.virtual_noise and latents.shape[2]:
            scale = (self.config.virtual_noise * change_B).view(-1, *[1] * (latents.dim() - 1))
            moved = moved + scale * draw_normal(generators, tuple(latents.shape[1:]), latents.device)
        return moved.to(latents.dtype)


def _change_of_a_step(unrolled: Tensor) -> Float[Tensor, " B"]:
    """Root of the mean squared change of a latent's numbers from one model step to the next, for each episode."""
    if unrolled.shape[2] < 2:
        return unrolled.new_zeros(len(unrolled), dtype=torch.float32)
    return unrolled.float().diff(dim=2).square().flatten(1).mean(dim=1).sqrt()


def _parts(latents: Any) -> list[Tensor]:
    return list(latents.parts().values()) if isinstance(latents, Latent) else [latents]


def _mapped(function: Callable[..., Tensor], *latents: Any) -> Any:
    """Applies a function to each part of latents, which are tensors or have parts."""
    made = [function(*of_part) for of_part in zip(*(_parts(each) for each in latents), strict=True)]
    return Latent(*made) if isinstance(latents[0], Latent) else made[0]


def _joined(latents: Sequence[Any]) -> Any:
    """Latents of several passes, side by side along the axis of candidates."""
    return _mapped(lambda *parts: torch.cat(parts, dim=1), *latents)
