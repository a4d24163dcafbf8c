"""What a search looked at: a log around its two callables, so that no planner does work for it unless asked."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.planning.base import Objective, StepUnroll, Unroll


class CandidateLog:
    """Keeps the candidates that a planner scores, with their costs: of any planner, in the order of scoring.

    Hand `log.unroll` and `log.objective` to a planner in place of its own.

    Args:
        unroll: Raw chunks `[B,N,H,A]` to latents.
        objective: Latents to cost `[B,N]`.
        cheapest: Keep this many of the cheapest candidates of each episode; None: keep all. Ties keep the earlier one.

    Attributes:
        chunks_BNHA: `[B,N,H,A]` raw chunks, on the CPU.
        cost_BN: `[B,N]` costs, on the CPU.
    """

    def __init__(self, unroll: Unroll, objective: Objective, *, cheapest: int | None = None) -> None:
        self.unroll: Unroll = (
            _LoggedStepUnroll(self, unroll) if isinstance(unroll, StepUnroll) else _LoggedUnroll(self, unroll)
        )
        self._objective, self._cheapest = objective, cheapest
        self._scored: list[tuple[Tensor, Tensor]] = []
        self._unrolled: Tensor | None = None
        self._single_steps = False

    def unrolled(self, chunks_BNHA: Tensor | None) -> None:
        """Remembers what was unrolled; None: single model steps were predicted, whose costs are not kept."""
        self._unrolled = None if chunks_BNHA is None else chunks_BNHA.detach()
        self._single_steps = chunks_BNHA is None

    def objective(self, latents: Any) -> Tensor:
        """Scores what was unrolled last, and keeps both; costs of single model steps are not kept."""
        cost_BN = self._objective(latents)
        if self._single_steps:
            return cost_BN
        if self._unrolled is None:
            raise RuntimeError("a log's objective scores what its unroll has just unrolled, which is not there")
        self._scored.append((self._unrolled.cpu(), cost_BN.detach().float().cpu()))
        self._unrolled = None
        if self._cheapest is not None:
            self._scored = [self._cheapest_of(self._cheapest)]
        return cost_BN

    @property
    def chunks_BNHA(self) -> Float[Tensor, "B N H A"]:
        """`[B,N,H,A]` raw chunks of the kept candidates."""
        return torch.cat([chunks for chunks, _ in self._scored], dim=1)

    @property
    def cost_BN(self) -> Float[Tensor, "B N"]:
        """`[B,N]` their costs."""
        return torch.cat([cost for _, cost in self._scored], dim=1)

    def _cheapest_of(self, count: int) -> tuple[Tensor, Tensor]:
        cost_BN, index_BN = self.cost_BN.sort(dim=1, stable=True)
        index = index_BN[:, :count, None, None].expand(-1, -1, *self.chunks_BNHA.shape[2:])
        return self.chunks_BNHA.gather(1, index), cost_BN[:, :count]


class _LoggedUnroll:
    """Unrolls, and tells a log what."""

    def __init__(self, log: CandidateLog, unroll: Unroll) -> None:
        self._log, self._inner = log, unroll

    def __call__(self, chunks_BNHA: Tensor) -> Any:
        self._log.unrolled(chunks_BNHA)
        return self._inner(chunks_BNHA)


class _LoggedStepUnroll(_LoggedUnroll):
    """The same of an unroll that also predicts single model steps."""

    def __init__(self, log: CandidateLog, unroll: StepUnroll) -> None:
        super().__init__(log, unroll)
        self._steps = unroll.steps

    def steps(self, virtual: Any, chunks_BNHA: Tensor) -> Any:
        self._log.unrolled(None)
        return self._steps(virtual, chunks_BNHA)
