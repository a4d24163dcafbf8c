"""The callable that planners unroll with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from jepawm.config.planner import Precision
from jepawm.device import autocast, free_memory_bytes, resolve_precision
from jepawm.engine.cuda_graphs import CudaGraphs
from jepawm.engine.memory import MemoryEstimate, peak_bytes
from jepawm.engine.planning_model import planning_model
from jepawm.errors import PlanningError
from jepawm.latent import Latent
from jepawm.world_model import WorldModel


@dataclass
class UnrollSettings:
    """How a model is unrolled, and what was learned of it: kept from plan to plan.

    Attributes:
        precision: Number format of the predictor; `auto`: bfloat16 where the device computes it natively.
        compiled: Compile the predictor's blocks.
        graphs: Recorded CUDA graphs; None: kernels are started one by one.
        say: Told the memory estimate, once, before candidates are unrolled; None: nobody is.
        most_candidates: Candidates of each episode that fit one forward pass, where memory once did not suffice.
        measured: Bytes whatever the number of candidates, and of each, for a horizon and a length of context.
    """

    precision: Precision
    compiled: bool = False
    graphs: CudaGraphs | None = None
    say: Callable[[str], None] | None = None
    most_candidates: int | None = None
    measured: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)


class PlanningUnroll:
    """Raw chunks `[B,N,H,A]` to predicted latents `[B,N,H]`, from each episode's present.

    Args:
        model: The world model, in evaluation mode.
        context: Observed latents `[B,T]`, the present last.
        past_actions_BLA: `[B,T-1,A]` raw chunks between them; None where `T` is 1.
        settings: How.

    Raises:
        PlanningError: CUDA graphs on another device.
    """

    def __init__(
        self, model: WorldModel, context: Latent, past_actions_BLA: Tensor | None, settings: UnrollSettings
    ) -> None:
        self.model = model
        self.context = context
        self.past_actions_BLA = past_actions_BLA
        self.settings = settings
        self.device = context.visual.device
        if settings.graphs is not None and self.device.type != "cuda":
            raise PlanningError(
                f"planner.cuda_graphs records work of a CUDA device, and the model is on {self.device}; set it to false"
            )
        half = resolve_precision(settings.precision, self.device) == "bfloat16"
        # A predictor that does not cast its inputs computes under autocast, from weights in float32.
        self._autocasts = half and not model.predictor.casts_inputs
        self._dtype = torch.bfloat16 if half and not self._autocasts else None
        self._planned = planning_model(model, self._dtype, compiled=settings.compiled)

    def __call__(self, chunks_BNHA: Tensor) -> Latent:
        graphs = self.settings.graphs
        if graphs is not None and not torch.is_grad_enabled():
            return graphs.unroll(self._planned, self._unroll, self.context, chunks_BNHA, self.past_actions_BLA)
        return self._unroll(self._planned, self.context, chunks_BNHA, self.past_actions_BLA)

    def steps(self, virtual: Latent, chunks_BNHA: Tensor) -> Latent:
        """Latents `[B,N,H]` after each chunk, each from the latent `[B,N,H-1]` given before it; see `StepUnroll`."""
        with autocast("bfloat16" if self._autocasts else "float32", self.device):
            return self._planned.step_candidates(self.context, virtual, chunks_BNHA, self.past_actions_BLA)

    def _unroll(
        self, model: WorldModel, context: Latent, chunks_BNHA: Tensor, past_actions_BLA: Tensor | None
    ) -> Latent:
        with autocast("bfloat16" if self._autocasts else "float32", self.device):
            return model.unroll_candidates(context, chunks_BNHA, past_actions_BLA)

    def candidates_per_forward(
        self, objective: Callable[[Latent], Tensor], chunks_BNHA: Tensor, asked: int | Literal["auto"] | None
    ) -> int:
        """Candidates of each episode in one forward pass, 1 to `N`; see `SizedUnroll`.

        Args:
            objective: Latents to cost; its memory counts as well.
            chunks_BNHA: `[B,N,H,A]` raw chunks.
            asked: So many; `auto`: as many as free memory holds; None: all.
        """
        size = chunks_BNHA.shape[1]
        if asked == "auto" or self.settings.say is not None:
            estimate = self.estimate(objective, chunks_BNHA)
            size = estimate.candidates_that_fit if asked == "auto" else asked or size
            if self.settings.say is not None:
                self.settings.say(estimate.describe(size))
                self.settings.say = None
        elif asked is not None:
            size = asked
        return min(size, chunks_BNHA.shape[1], self.settings.most_candidates or size)

    def did_not_fit(self, candidates: int) -> None:
        """Lets later forward passes hold no more candidates of each episode than did fit."""
        self.settings.most_candidates = candidates

    def estimate(self, objective: Callable[[Latent], Tensor], chunks_BNHA: Tensor) -> MemoryEstimate:
        """Memory of a forward pass, measured with one and with two candidates of each episode.

        Measured once for a horizon and a length of context; a later estimate looks at free memory alone.

        Args:
            objective: Latents to cost; its memory counts as well.
            chunks_BNHA: `[B,N,H,A]` raw chunks.
        """
        B, N, H = chunks_BNHA.shape[:3]
        # With a graph for gradients a candidate takes more.
        differentiated = torch.is_grad_enabled() and chunks_BNHA.requires_grad
        key = (H, self.context.lead[1], differentiated)
        if key not in self.settings.measured:
            model = planning_model(self.model, self._dtype)

            def peak(candidates: int) -> int:
                part = chunks_BNHA[:, :1].expand(-1, candidates, -1, -1)
                return peak_bytes(lambda: objective(self._unroll(model, self.context, part, self.past_actions_BLA)))

            one, two = peak(1), peak(2)
            self.settings.measured[key] = max(0, 2 * one - two), max(0, two - one) // B
        fixed, each = self.settings.measured[key]
        return MemoryEstimate(B, N, fixed, each, free_memory_bytes(self.device), str(self.device))
