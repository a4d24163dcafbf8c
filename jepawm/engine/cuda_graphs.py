"""Unrolls as CUDA graphs: one launch in place of thousands."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jepawm.latent import Latent
from jepawm.world_model import WorldModel

Unroll = Callable[[WorldModel, Latent, Tensor, Tensor | None], Latent]

# Micro-batches of a search have two sizes: the full one and what is left.
_KEPT = 2
_WARM_UPS = 3


@dataclass
class _Recorded:
    """A graph, the tensors it reads and those it writes."""

    graph: torch.cuda.CUDAGraph
    model: WorldModel
    given: list[Tensor]
    found: Latent


class CudaGraphs:
    """Records an unroll for each shape of its inputs, and replays it.

    A graph reads and writes the same memory each time: inputs are copied into it, and the result is copied out. The
    weights are read where they are, so an update in place is seen. The graphs of the two last shapes are kept.
    """

    def __init__(self) -> None:
        self._recorded: OrderedDict[tuple[torch.Size | None, ...], _Recorded] = OrderedDict()

    def unroll(
        self, model: WorldModel, unroll: Unroll, context: Latent, chunks_BNHA: Tensor, past_actions_BLA: Tensor | None
    ) -> Latent:
        """`unroll` of the model, replayed where the shapes were seen before.

        Args:
            model: The model that plans; another model than before is recorded anew.
            unroll: Does nothing but queue work on the device.
            context: Observed latents `[B,T]`.
            chunks_BNHA: `[B,N,H,A]` raw chunks.
            past_actions_BLA: `[B,T-1,A]` raw chunks between the context frames.
        """
        given = [*context.parts().values(), chunks_BNHA]
        if past_actions_BLA is not None:
            given.append(past_actions_BLA)
        key = tuple(part.shape for part in given)
        recorded = self._recorded.pop(key, None)
        if recorded is None or recorded.model is not model:
            if len(self._recorded) >= _KEPT:
                self._recorded.popitem(last=False)
            recorded = _record(model, unroll, context, chunks_BNHA, past_actions_BLA)
        self._recorded[key] = recorded
        for into, part in zip(recorded.given, given, strict=True):
            into.copy_(part)
        recorded.graph.replay()
        return recorded.found.map(Tensor.clone)


def _record(
    model: WorldModel, unroll: Unroll, context: Latent, chunks_BNHA: Tensor, past_actions_BLA: Tensor | None
) -> _Recorded:
    context, chunks = context.map(Tensor.clone), chunks_BNHA.clone()
    past = None if past_actions_BLA is None else past_actions_BLA.clone()
    # Tables are made, libraries are loaded and kernels are chosen in the first runs, which must not be recorded.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            unroll(model, context, chunks, past)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = unroll(model, context, chunks, past)
    given = [*context.parts().values(), chunks]
    return _Recorded(graph, model, given if past is None else [*given, past], found)
