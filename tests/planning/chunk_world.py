"""A world in which the latent is the chunk: what planners are put to the test with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.planning import ActionSearchSpace, Plan
from jepawm.types import ActionSpec, Statistics

FRAMESKIP, HORIZON = 3, 4
MEAN, STD = np.array([0.2, -0.1], np.float32), np.array([0.5, 2.0], np.float32)
FREE = ActionSpec(2, (-np.inf, -np.inf), (np.inf, np.inf))


def make_space(spec: ActionSpec = FREE, *, hold: bool = True) -> ActionSearchSpace:
    statistics = Statistics(MEAN, STD, np.zeros(1, np.float32), np.ones(1, np.float32))
    return ActionSearchSpace(spec, statistics, frameskip=FRAMESKIP, hold=hold)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class World:
    """A world in which the latent is the chunk, wherever a model step starts from."""

    def __call__(self, chunks_BNHA: Tensor) -> Tensor:
        return chunks_BNHA[:, :, :, None, :]

    def steps(self, virtual: Tensor, chunks_BNHA: Tensor) -> Tensor:
        assert virtual.shape[2] == chunks_BNHA.shape[2] - 1
        return self(chunks_BNHA)


unroll = World()


class Quadratic:
    """Squared distance of each episode's chunks to its own target `[B,H,A]`."""

    def __init__(self, target_BHA: Tensor) -> None:
        self.target = target_BHA
        self.widths: list[int] = []

    def __call__(self, latents_BNHPD: Tensor) -> Tensor:
        self.widths.append(latents_BNHPD.shape[1])
        return (latents_BNHPD[:, :, :, 0] - self.target[:, None]).square().sum(dim=(-2, -1))


def targets(seed: int, count: int = 3, *, hold: bool = True) -> Tensor:
    """Chunks that a search could find, within about one standard deviation of the data."""
    draws = torch.randn(count, HORIZON, 1 if hold else FRAMESKIP, 2, generator=torch.Generator().manual_seed(seed))
    raw = torch.from_numpy(MEAN) + 0.7 * torch.from_numpy(STD) * draws
    return raw.expand(-1, -1, FRAMESKIP, -1).flatten(2)


class Rippled:
    """A bowl with a ripple: many minima, the lowest of which may lie on the bound.

    In standard deviations `u` from the data's mean, `cost = sum of (u - c)^2 + depth (1 - cos(wave (u - c)))` over the
    numbers of a plan; each number counts by itself, so the lowest cost inside the bounds is found on a line.
    """

    DEPTH, WAVE = 0.4, 9.0

    def __init__(self, centre_BHa: Tensor) -> None:
        self.centre = centre_BHa

    def of(self, away: Tensor) -> Tensor:
        return away.square() + self.DEPTH * (1 - torch.cos(self.WAVE * away))

    def __call__(self, latents_BNHPD: Tensor) -> Tensor:
        actions = latents_BNHPD[:, :, :, 0, :2]
        u = (actions - torch.from_numpy(MEAN)) / torch.from_numpy(STD)
        return self.of(u - self.centre[:, None]).sum(dim=(-2, -1))

    def lowest_B(self, bound: float) -> Tensor:
        line = torch.linspace(-bound, bound, 4001)
        return self.of(line - self.centre[..., None]).amin(dim=-1).sum(dim=(-2, -1))


class Inside(World):
    """Unrolls, and fails on a candidate outside the bounds."""

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec

    def check(self, chunks: Tensor) -> None:
        raw = chunks.unflatten(-1, (FRAMESKIP, 2))
        assert (raw >= torch.tensor(self.spec.low) - 1e-5).all()
        assert (raw <= torch.tensor(self.spec.high) + 1e-5).all()
        if self.spec.max_norm is not None:
            assert (raw.norm(dim=-1) <= self.spec.max_norm + 1e-5).all()

    def __call__(self, chunks_BNHA: Tensor) -> Tensor:
        self.check(chunks_BNHA)
        return super().__call__(chunks_BNHA)


BOX = ActionSpec(2, (-0.3, -0.5), (0.4, np.inf))
BOX_CLOSED = ActionSpec(2, (-0.3, -0.5), (0.4, 0.7))
BALL = ActionSpec(2, (-np.inf, -np.inf), (np.inf, np.inf), max_norm=0.6)
BOX_AND_BALL = ActionSpec(2, (-0.5, -0.5), (0.5, 0.5), max_norm=0.6)


class Scripted:
    """A planner that remembers how it was asked, and answers with numbered plans."""

    def __init__(self) -> None:
        self.warm_starts: list[Tensor | None] = []
        self.objectives: list[Any] = []

    def plan(
        self,
        unroll: object,
        objective: object,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        self.warm_starts.append(warm_start_BHd)
        self.objectives.append(objective)
        B = len(generators)
        search = torch.arange(B * HORIZON * 2.0).view(B, HORIZON, 2) + 100 * len(self.warm_starts)
        nothing = torch.zeros(1, B)
        return Plan(search.repeat(1, 1, FRAMESKIP), search, nothing, nothing)
