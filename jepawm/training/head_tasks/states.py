"""The head that reads the simulator's state."""

import torch
from torch import Tensor, nn

from jepawm.config.head import StateHeadConfig
from jepawm.heads import HeadShape, StateHead
from jepawm.training.head_tasks.base import MEASURED_ROWS, HeadBatch, HeadTask, Terms
from jepawm.training.latent_episodes import LatentEpisodes


class StateTask(HeadTask):
    """The simulator's state: mean absolute error, in the state's own units or in standard deviations.

    While it trains, the head gives standard deviations around the mean, for numbers of hundreds of pixels are far from
    where a network begins; `finish` folds both into its last layer.

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497.
    """

    kept = frozenset({"states"})
    mean: Tensor
    std: Tensor

    def __init__(self, config: StateHeadConfig, shape: HeadShape) -> None:
        super().__init__(config, shape)
        self.config = config
        width = len(shape.state_names)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def prepare(self, episodes: LatentEpisodes) -> None:
        assert episodes.states is not None, "`kept` asks for them"
        states = episodes.states.double()
        std = states.std(dim=0, correction=0)
        self.mean.copy_(states.mean(dim=0))
        # A number that does not vary is its mean; the head's own output stays as it is.
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def losses(self, batch: HeadBatch) -> Terms:
        assert batch.states is not None, "`kept` asks for them"
        error_BS = (self.head(batch.now.visual[:, None])[:, 0] - (batch.states - self.mean) / self.std).abs()
        raw = (error_BS * self.std).mean()
        standardised = error_BS.mean()
        return {"loss": raw if self.config.units == "raw" else standardised, "l1": raw, "l1_standardised": standardised}

    def finish(self) -> nn.Module:
        head = self.head
        assert isinstance(head, StateHead), "the kind builds this head"
        with torch.no_grad():
            head.proj.weight.mul_(self.std[:, None])
            head.proj.bias.mul_(self.std).add_(self.mean)
        self.mean.zero_()
        self.std.fill_(1.0)
        return head

    @torch.no_grad()
    def measure(self, episodes: LatentEpisodes, generator: torch.Generator) -> dict[str, float]:
        """Mean absolute error of each number in its own unit, and `r2`: 1 is perfect, 0 no better than the mean."""
        rows = torch.randperm(len(episodes), generator=generator)[:MEASURED_ROWS]
        batch = self.batch(episodes, rows)
        assert batch.states is not None, "`kept` asks for them"
        read = torch.cat([self.head(part[:, None])[:, 0] for part in batch.now.visual.split(256)])
        error_BS = (read * self.std + self.mean - batch.states).double()
        spread_S = (batch.states - batch.states.mean(dim=0)).double().square().sum(dim=0)
        r2_S = 1 - error_BS.square().sum(dim=0) / spread_S
        found = dict(zip(self.shape.state_names, error_BS.abs().mean(dim=0).tolist(), strict=True))
        varying = r2_S[torch.isfinite(r2_S)]
        r2 = float(varying.mean()) if len(varying) else float("nan")
        return {"r2": r2, **{f"mean_absolute_error/{name}": value for name, value in found.items()}}
