"""Plans to start a search from: what was done in recorded episodes that went from a like place to a like goal."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.latent import Latent

# Episodes of a batch whose distances to all recorded frames are held at once.
_ROWS_AT_ONCE = 16


class LatentProjection:
    """Latents as short vectors whose squared distances are about those of an l2 objective.

    A vector is the visual part, and the weighed proprio part, over the root of their sizes; where that is longer than
    `dims`, a random matrix with normal entries shortens it. Squared distances then have a relative deviation of about
    `sqrt(2 / dims)`.

    Args:
        dims: Most numbers of a vector.
        proprio_weight: Of the proprio part beside the visual one.
        seed: Of the matrix.

    Reference: Johnson and Lindenstrauss 1984, Extensions of Lipschitz mappings into a Hilbert space.
    """

    def __init__(self, dims: int, *, proprio_weight: float, seed: int) -> None:
        self.dims = dims
        self.proprio_weight = proprio_weight
        self.seed = seed
        self._matrix: Tensor | None = None

    def __call__(self, latents: Latent) -> Float[Tensor, "*lead F"]:
        """`[*lead,F]` vectors, `F` at most `dims`, of latents `[*lead]`."""
        seen = latents.visual.flatten(-2).float()
        parts = [seen / seen.shape[-1] ** 0.5]
        if latents.proprio is not None and self.proprio_weight:
            felt = latents.proprio.flatten(-2).float()
            parts.append(felt * (self.proprio_weight / felt.shape[-1]) ** 0.5)
        whole = torch.cat(parts, dim=-1)
        width = whole.shape[-1]
        if width <= self.dims:
            return whole
        if self._matrix is None:
            drawn = torch.randn(width, self.dims, generator=torch.Generator().manual_seed(self.seed))
            self._matrix = drawn / self.dims**0.5
        return whole @ self._matrix.to(whole.device)


class NearestStarts:
    """Recorded chunks that followed a latent like the present, in episodes that later came to a latent like the goal.

    Of each recorded episode the frame counts whose own distance to the present, plus the smallest distance of a later
    frame to the goal, is smallest. The chunks from there on are a start; past its episode's end the last one is
    repeated. The nearest episodes give the starts.

    Args:
        projection: Latents to vectors.
        vectors_MF: `[M,F]` of the recorded frames, a model step apart, episode after episode.
        chunks_MA: `[M,A]` raw chunks that were executed from each frame on; those of last frames are not read.
        lengths: `[E]` frames of each episode, at least two.
        horizon: Chunks `H` of a plan.
        num_starts: Starts for each plan.

    Raises:
        PlanningError: No episode of two frames, or frames and lengths that do not fit.
    """

    def __init__(
        self,
        projection: LatentProjection,
        vectors_MF: Float[Tensor, "M F"],
        chunks_MA: Float[Tensor, "M A"],
        lengths: Sequence[int],
        *,
        horizon: int,
        num_starts: int,
    ) -> None:
        if not lengths or min(lengths) < 2 or sum(lengths) != len(vectors_MF):
            raise PlanningError(
                f"nearest starts need episodes of two frames at least, and a vector for each frame: found "
                f"{len(vectors_MF)} vectors and lengths {list(lengths)[:5]}"
            )
        device = vectors_MF.device
        self.horizon = horizon
        self.num_starts = num_starts
        self._projection = projection
        self._vectors_MF, self._chunks_MA = vectors_MF, chunks_MA
        self._length_E = torch.tensor(lengths, device=device)
        self._first_E = self._length_E.cumsum(0) - self._length_E
        place_L = torch.arange(int(self._length_E.max()), device=device)
        self._is_frame_EL = place_L < self._length_E[:, None]
        # An episode's last frame is followed by no chunk.
        self._is_start_EL = place_L < self._length_E[:, None] - 1
        self._row_EL = self._first_E[:, None] + place_L.clamp_max(self._length_E[:, None] - 1)

    def __call__(self, latents: Latent, goals: Latent) -> Float[Tensor, "B M H A"]:
        """Observed latents `[B,T]`, the present last, and what plans aim at `[B]`, to raw chunks `[B,M,H,A]`."""
        device = self._vectors_MF.device
        now_BF, goal_BF = (self._projection(each).to(device) for each in (latents[:, -1], goals))
        found = [
            self._starts(now, goal)
            for now, goal in zip(now_BF.split(_ROWS_AT_ONCE), goal_BF.split(_ROWS_AT_ONCE), strict=True)
        ]
        return torch.cat(found)

    def _starts(self, now_BF: Tensor, goal_BF: Tensor) -> Tensor:
        to_now_BEL, to_goal_BEL = (self._squared_distances(each) for each in (now_BF, goal_BF))
        to_goal_BEL = to_goal_BEL.masked_fill(~self._is_frame_EL, torch.inf)
        # The smallest distance to the goal from each frame on, and then from the frame after it on.
        nearest_BEL = to_goal_BEL.flip(-1).cummin(dim=-1).values.flip(-1)
        later_BEL = torch.cat([nearest_BEL[..., 1:], torch.full_like(nearest_BEL[..., :1], torch.inf)], dim=-1)
        total_BEL = (to_now_BEL + later_BEL).masked_fill(~self._is_start_EL, torch.inf)
        total_BE, place_BE = total_BEL.min(dim=-1)
        number = min(self.num_starts, total_BE.shape[1])
        episode_BM = total_BE.topk(number, dim=1, largest=False).indices
        place_BM = place_BE.gather(1, episode_BM)
        steps_H = torch.arange(self.horizon, device=place_BM.device)
        last_BM1 = (self._length_E[episode_BM] - 2)[..., None]
        rows_BMH = self._first_E[episode_BM][..., None] + (place_BM[..., None] + steps_H).minimum(last_BM1)
        return self._chunks_MA[rows_BMH]

    def _squared_distances(self, vectors_BF: Tensor) -> Tensor:
        """`[B,E,L]` squared distances to each frame of each episode."""
        products_BM = vectors_BF @ self._vectors_MF.T
        squared_BM = vectors_BF.square().sum(-1)[:, None] - 2 * products_BM + self._vectors_MF.square().sum(-1)
        return squared_BM[:, self._row_EL]
