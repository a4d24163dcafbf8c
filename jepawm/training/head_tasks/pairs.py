"""Heads that read now and a goal, trained by hindsight: the temporal distance, and the inverse dynamics."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from jepawm.config.head import DistanceHeadConfig, InverseDynamicsHeadConfig
from jepawm.heads import DistanceHead, GoalInverseDynamicsHead, HeadShape
from jepawm.training.head_tasks.base import MEASURED_ROWS, HeadBatch, HeadTask, Terms
from jepawm.training.hindsight import HindsightPairs
from jepawm.training.latent_episodes import LatentEpisodes


class PairTask(HeadTask):
    """What heads that read now and a goal share: pairs that hindsight gives."""

    smallest_steps: ClassVar[int]
    negative_fraction = 0.0

    def __init__(self, config: DistanceHeadConfig | InverseDynamicsHeadConfig, shape: HeadShape) -> None:
        super().__init__(config, shape)
        self.config = config
        self._pairs: tuple[LatentEpisodes | None, HindsightPairs | None] = (None, None)

    def prepare(self, episodes: LatentEpisodes) -> None:
        assert isinstance(self.head, DistanceHead | GoalInverseDynamicsHead), "the kind builds one of these"
        self.head.features.fit(episodes.latents.visual, episodes.latents.proprio)

    def draw(self, episodes: LatentEpisodes, batch_size: int, generator: torch.Generator) -> HeadBatch:
        """Pairs of one episode; the last `negative_fraction` of them have goals of other episodes."""
        pairs_of = self._hindsight(episodes)
        pairs = pairs_of.draw(batch_size, generator)
        goal, steps = pairs.goal.clone(), pairs.steps.float()
        same = torch.ones(batch_size, dtype=torch.bool)
        negatives = round(self.negative_fraction * batch_size)
        if negatives:
            goal[-negatives:] = pairs_of.draw_other(pairs.now[-negatives:], generator)
            steps[-negatives:] = self.config.horizon
            same[-negatives:] = False
        device = episodes.latents.visual.device
        batch = self.batch(episodes, pairs.now)
        return HeadBatch(
            batch.now, episodes.latents[goal.to(device)], steps.to(device), same.to(device), chunks=batch.chunks
        )

    def read(self, batch: HeadBatch) -> Tensor:
        """What the head reads from the pairs."""
        now, goal = batch.now, batch.goal
        assert goal is not None, "pairs have goals"
        return self.head(now.visual, goal.visual, now.proprio, goal.proprio)

    def _hindsight(self, episodes: LatentEpisodes) -> HindsightPairs:
        if self._pairs[0] is not episodes:
            pairs = HindsightPairs(episodes.lengths, horizon=self.config.horizon, smallest=self.smallest_steps)
            self._pairs = (episodes, pairs)
        found = self._pairs[1]
        assert found is not None, "set with the episodes"
        return found


class DistanceTask(PairTask):
    """The temporal distance: a quantile of the number of model steps between two frames of an episode.

    `loss = mean over pairs of one episode of max(q e, (q - 1) e) with e = steps - d(z, goal)`, and for goals of another
    episode, which may not be reachable at all, `max(0, horizon - d(z, goal))`; both in units of the horizon.

    Reference: Hartikainen et al. 2019, Dynamical Distance Learning, arXiv 1907.08225; Koenker and Bassett 1978,
        Regression quantiles.
    """

    kept = frozenset({"proprio"})
    smallest_steps = 0

    def __init__(self, config: DistanceHeadConfig, shape: HeadShape) -> None:
        super().__init__(config, shape)
        self.quantile = config.quantile
        self.negative_fraction = config.negative_fraction

    def losses(self, batch: HeadBatch) -> Terms:
        assert batch.steps is not None, "pairs have them"
        assert batch.same_episode is not None, "pairs have it"
        error_B = (batch.steps - self.read(batch)) / self.config.horizon
        same = batch.same_episode.float()
        quantile_B = torch.maximum(self.quantile * error_B, (self.quantile - 1) * error_B)
        terms = {"quantile": (quantile_B * same).sum() / same.sum().clamp_min(1)}
        if self.negative_fraction:
            terms["negatives"] = (error_B.clamp_min(0) * (1 - same)).sum() / (1 - same).sum().clamp_min(1)
        return {"loss": (quantile_B * same + error_B.clamp_min(0) * (1 - same)).mean(), **terms}

    @torch.no_grad()
    def measure(self, episodes: LatentEpisodes, generator: torch.Generator) -> dict[str, float]:
        """On held-out pairs of one episode.

        `rank_correlation` (Spearman) of distances with true numbers of steps, and the `quantile_loss` in model steps
        beside the one of the best constant.
        """
        pairs = self._hindsight(episodes).draw(MEASURED_ROWS, generator)
        device = episodes.latents.visual.device
        now, goal = (episodes.latents[rows.to(device)] for rows in (pairs.now, pairs.goal))
        read = self.head(now.visual, goal.visual, now.proprio, goal.proprio).cpu().double()
        steps = pairs.steps.double()
        constant = steps.quantile(self.quantile)
        return {
            "rank_correlation": _rank_correlation(read.numpy(), steps.numpy()),
            "quantile_loss": self._quantile_loss(steps - read),
            "quantile_loss_constant": self._quantile_loss(steps - constant),
        }

    def _quantile_loss(self, error: Tensor) -> float:
        return float(torch.maximum(self.quantile * error, (self.quantile - 1) * error).mean())


class InverseDynamicsTask(PairTask):
    """GC-IDM: the chunk that was executed on the way to a frame 1 to `horizon` model steps later, normalised.

    `loss = mean over pairs of |head(z, goal) - normalised chunk|^2`

    Reference: GC-IDM, arXiv 2605.08732.
    """

    kept = frozenset({"proprio", "chunks"})
    smallest_steps = 1

    def losses(self, batch: HeadBatch) -> Terms:
        return {"loss": self._squared_error(batch).mean()}

    @torch.no_grad()
    def measure(self, episodes: LatentEpisodes, generator: torch.Generator) -> dict[str, float]:
        """Mean squared error of held-out chunks, normalised, beside the one of their mean."""
        batch = self.draw(episodes, MEASURED_ROWS, generator)
        assert batch.chunks is not None, "`kept` asks for them"
        spread = batch.chunks - batch.chunks.mean(dim=0)
        return {"mse": float(self._squared_error(batch).mean()), "mse_mean_chunk": float(spread.square().mean())}

    def _squared_error(self, batch: HeadBatch) -> Tensor:
        assert batch.chunks is not None, "`kept` asks for them"
        return (self.read(batch) - batch.chunks).square()


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0  # One number says nothing of the order.
    return float(spearmanr(a, b).statistic)
