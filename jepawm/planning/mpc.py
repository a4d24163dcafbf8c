"""Model-predictive control: observe, plan, hand out the first chunks, shift the plan, and again."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config import ProtocolConfig
from jepawm.latent import Latent
from jepawm.planning.cost import Planner, Unroll
from jepawm.planning.objective import GoalDistance


class MPC:
    """Plans for a set of episodes, remembering each one's last plan.

    Args:
        planner: Searches the plans.
        protocol: How many chunks are executed per plan, and what the cost sums over.
        proprio_weight: See `GoalDistance`.
        warm_start: Start a replan from the unexecuted rest of the last plan.
    """

    def __init__(
        self, planner: Planner, protocol: ProtocolConfig, *, proprio_weight: float = 0.1, warm_start: bool = True
    ) -> None:
        self.planner = planner
        self.proprio_weight = proprio_weight
        self.protocol = protocol
        self.warm_start = warm_start
        self._last: dict[int, Tensor] = {}

    def act(
        self,
        episode_ids: Sequence[int],
        unroll: Unroll,
        goal: Latent,
        generators: Sequence[torch.Generator],
        num_chunks: int,
    ) -> Float[Tensor, "B n A"]:
        """Plans from the present and returns the chunks to execute.

        Args:
            episode_ids: The `B` episodes still running; all of them planned before, or none.
            unroll: Raw chunks `[B,N,H,A]` to latents, from each episode's present.
            goal: Goal latents `[B]`.
            generators: One per episode.
            num_chunks: Chunks wanted, at most the horizon.

        Returns:
            `[B,num_chunks,A]` raw chunks.
        """
        objective = GoalDistance(goal, self.protocol.cost, proprio_weight=self.proprio_weight)
        start = None
        if self.warm_start and all(episode in self._last for episode in episode_ids):
            start = torch.stack([self._last[episode] for episode in episode_ids])
        plan = self.planner.plan(unroll, objective, generators=generators, warm_start_BHd=start)
        done = self.protocol.replan_every
        if done < plan.search_BHd.shape[1]:
            # Past the plan's end its last action is the best guess there is.
            rest_BHd = torch.cat([plan.search_BHd[:, done:], plan.search_BHd[:, -1:].expand(-1, done, -1)], dim=1)
            self._last.update(zip(episode_ids, rest_BHd, strict=True))
        return plan.chunks_BHA[:, :num_chunks]
