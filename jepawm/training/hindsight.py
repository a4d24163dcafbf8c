"""Hindsight: pairs of frames of which the second is a goal that was reached from the first."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from jepawm.errors import DataError


@dataclass(frozen=True)
class Pairs:
    """`B` pairs of frames, as rows of `LatentEpisodes`.

    Attributes:
        now: `[B]` rows.
        goal: `[B]` rows.
        steps: `[B]` model steps from now to the goal.
    """

    now: Int[Tensor, " B"]
    goal: Int[Tensor, " B"]
    steps: Int[Tensor, " B"]


class HindsightPairs:
    """Draws pairs of frames of one episode, `smallest` to `horizon` model steps apart.

    The first frame is uniform among the frames that have `smallest` frames after them, and the number of steps is
    uniform among those that the rest of its episode has. So near goals are more frequent near an episode's end.

    Args:
        lengths: `[E]` frames of each episode, a model step apart.
        horizon: Largest number of model steps.
        smallest: Smallest number of model steps; 0: a frame may be its own goal.

    Raises:
        DataError: No episode is long enough.
    """

    def __init__(self, lengths: Sequence[int], *, horizon: int, smallest: int) -> None:
        self.horizon = horizon
        self.smallest = smallest
        length_E = torch.tensor(lengths, dtype=torch.int64)
        first_E = length_E.cumsum(0) - length_E
        self._first_M = first_E.repeat_interleave(length_E)
        self._length_M = length_E.repeat_interleave(length_E)
        rows_M = torch.arange(int(length_E.sum()))
        self._after_M = self._first_M + self._length_M - 1 - rows_M
        self._starts = rows_M[self._after_M >= smallest]
        if not len(self._starts):
            raise DataError(
                f"no pair of frames is {smallest} model steps apart: the longest of {len(length_E)} episodes has "
                f"{int(length_E.max()) if len(length_E) else 0} frames a model step apart"
            )

    def draw(self, num_pairs: int, generator: torch.Generator) -> Pairs:
        """`num_pairs` pairs."""
        now = self._starts[torch.randint(len(self._starts), (num_pairs,), generator=generator)]
        return self._pairs(now, torch.rand(num_pairs, generator=generator))

    def draw_other(self, now: Int[Tensor, " B"], generator: torch.Generator) -> Int[Tensor, " B"]:
        """`[B]` rows, each uniform among the frames of all episodes but the one of `now`.

        Raises:
            DataError: There is one episode alone.
        """
        total = len(self._first_M)
        others = total - self._length_M[now]
        if not bool((others > 0).all()):
            raise DataError("goals of another episode need two episodes at least, there is one")
        drawn = (torch.rand(len(now), generator=generator, dtype=torch.float64) * others).long()
        # Rows are counted without the episode of `now`, so those behind it move on by its length.
        return torch.where(drawn >= self._first_M[now], drawn + self._length_M[now], drawn)

    def _pairs(self, now: Tensor, share: Tensor) -> Pairs:
        choices = self._after_M[now].clamp_max(self.horizon) - self.smallest + 1
        steps = self.smallest + (share * choices).long().clamp_max(choices - 1)
        return Pairs(now, now + steps, steps)
