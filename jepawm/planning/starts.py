"""Plans to start a search from: of a policy, of recorded episodes, or the rest of the last plan."""

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.errors import PlanningError
from jepawm.planning.base import Objective, Planner, Unroll, score
from jepawm.planning.search_space import ActionSearchSpace


def cheapest_start(
    unroll: Unroll,
    objective: Objective,
    planner: Planner,
    starts_BMHA: Float[Tensor, "B M H A"],
    rest_BHd: Float[Tensor, "B H d"] | None = None,
) -> Float[Tensor, "B H d"]:
    """The cheapest of some plans for each episode, in one forward pass.

    Args:
        unroll: Raw chunks `[B,N,H,A]` to latents.
        objective: Latents to cost `[B,N]`.
        planner: Which will search from there; it has the `space` that it searches, as all planners of jepawm have.
        starts_BMHA: `[B,M,H,A]` raw chunks.
        rest_BHd: `[B,H,d]` one more, in search units; None: none.

    Returns:
        `[B,H,d]` in search units, inside the bounds.

    Raises:
        PlanningError: A planner without `space`, or chunks of another width than an environment's.
    """
    space = getattr(planner, "space", None)
    if not isinstance(space, ActionSearchSpace):
        raise PlanningError(
            f"to start from given chunks a planner needs an attribute 'space' with the ActionSearchSpace that it "
            f"searches; {type(planner).__name__} has none"
        )
    width = space.frameskip * space.dim // space.actions_per_chunk
    if starts_BMHA.shape[-1] != width:
        raise PlanningError(f"starts: expected raw chunks of width A = {width}, found {starts_BMHA.shape[-1]}")
    starts_BMHd = space.from_chunks(starts_BMHA.to(space.device))
    if rest_BHd is not None:
        starts_BMHd = torch.cat([space.project(rest_BHd)[:, None], starts_BMHd], dim=1)
    if starts_BMHd.shape[1] == 1:
        return starts_BMHd[:, 0]
    best_B = score(unroll, objective, space, starts_BMHd).argmin(dim=1)
    return starts_BMHd[torch.arange(len(best_B), device=best_B.device), best_B]
