"""The macro model: latents several model steps ahead, from what an encoder makes of the chunks between them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.config.macro import MacroHeadConfig
from jepawm.errors import DataError
from jepawm.heads import HeadShape
from jepawm.latent import Latent
from jepawm.macro_model import MacroModel
from jepawm.training.head_tasks.base import MEASURED_ROWS, HeadBatch, HeadTask, Terms
from jepawm.training.hindsight import HindsightPairs
from jepawm.training.latent_episodes import LatentEpisodes

# Macro-actions whose mean, covariance and bounds are taken.
_FITTED_WINDOWS = 16_384


@dataclass(frozen=True)
class MacroBatch(HeadBatch):
    """`B` windows of `K` macro-actions, each `k` model steps long.

    Attributes:
        after: Latents `[B,K]` after each macro-action.
        chunks_BKkA: `[B,K,k,A]` normalised chunks of each macro-action.
    """

    after: Latent | None = None
    chunks_BKkA: Tensor | None = None


class MacroTask(HeadTask):
    """Predicts latents after each macro-action of a window, unrolled from its first frame.

    `loss = mean over K macro-actions of |unrolled tokens - true tokens|^2`, of tokens that are centred and scaled.

    Reference: HWM, arXiv 2604.03208.
    """

    kept = frozenset({"proprio", "chunks"})
    head: MacroModel

    def __init__(self, config: MacroHeadConfig, shape: HeadShape) -> None:
        super().__init__(config, shape)
        self.config = config
        self._trained_on: LatentEpisodes | None = None
        self._windows: tuple[LatentEpisodes | None, HindsightPairs | None] = (None, None)

    def prepare(self, episodes: LatentEpisodes) -> None:
        self._trained_on = episodes
        self.head.fit_scale(episodes.latents)

    def draw(self, episodes: LatentEpisodes, batch_size: int, generator: torch.Generator) -> MacroBatch:
        """Windows, uniform over all those that episodes hold."""
        first_B = self._starts(episodes).draw(batch_size, generator).now.to(episodes.latents.visual.device)
        K, k = self.config.unroll_steps, self.config.num_model_steps
        offsets_Kk = torch.arange(K * k, device=first_B.device).view(K, k)
        assert episodes.chunks is not None, "`kept` asks for them"
        return MacroBatch(
            episodes.latents[first_B],
            after=episodes.latents[first_B[:, None] + offsets_Kk[:, -1] + 1],
            chunks_BKkA=episodes.chunks[first_B[:, None, None] + offsets_Kk],
        )

    def losses(self, batch: HeadBatch) -> Terms:
        assert isinstance(batch, MacroBatch), "`draw` makes them"
        return {"loss": self._squared_error_K(batch).mean()}

    @torch.no_grad()
    def measure(self, episodes: LatentEpisodes, generator: torch.Generator) -> dict[str, float]:
        """Mean squared errors of held-out tokens after 1 and after `unroll_steps` macro-actions.

        Beside each stands the error of `persistence`, which predicts that nothing changes, and of `shuffled` chunks,
        those of another window.
        """
        batch = self.draw(episodes, MEASURED_ROWS, generator)
        assert batch.after is not None, "`draw` sets it"
        assert batch.chunks_BKkA is not None, "`draw` sets them"
        now, after = self.head.tokens(batch.now), self.head.tokens(batch.after)
        others = torch.randperm(len(now), generator=generator).to(now.device)
        shuffled = MacroBatch(batch.now, after=batch.after, chunks_BKkA=batch.chunks_BKkA[others])
        errors = {
            "mse": self._squared_error_K(batch),
            "mse_persistence": (now[:, None] - after).square().flatten(2).mean(dim=(0, 2)),
            "mse_shuffled": self._squared_error_K(shuffled),
        }
        ends = dict.fromkeys((1, self.config.unroll_steps))
        return {f"{name}_after_{K}": float(error[K - 1]) for K in ends for name, error in errors.items()}

    def finish(self) -> nn.Module:
        """The trained model, whose macro-actions have the scale and the bounds of those of the training windows."""
        assert self._trained_on is not None, "a training begins with `prepare`"
        batch = self.draw(self._trained_on, _FITTED_WINDOWS, torch.Generator().manual_seed(0))
        assert batch.chunks_BKkA is not None, "`draw` sets them"
        self.head.fit_macros(batch.chunks_BKkA.flatten(0, 1))
        return self.head

    def _squared_error_K(self, batch: MacroBatch) -> Tensor:
        """`[K]` mean squared error after each macro-action."""
        assert batch.after is not None, "`draw` sets it"
        assert batch.chunks_BKkA is not None, "`draw` sets them"
        codes_BKd = self.head.encode(batch.chunks_BKkA)
        tokens, true = self.head.tokens(batch.now), self.head.tokens(batch.after)
        errors = []
        for at in range(codes_BKd.shape[1]):
            tokens = self.head.step(tokens, codes_BKd[:, at])
            errors.append(F.mse_loss(tokens, true[:, at]))
        return torch.stack(errors)

    def _starts(self, episodes: LatentEpisodes) -> HindsightPairs:
        """The first and last frames of windows."""
        if self._windows[0] is not episodes:
            K, k = self.config.unroll_steps, self.config.num_model_steps
            if max(episodes.lengths) <= K * k:
                raise DataError(
                    f"a macro window is {K} macro-actions of {k} model steps, the longest of {len(episodes.lengths)} "
                    f"episodes has {max(episodes.lengths) - 1} model steps; lower head.num_model_steps or "
                    "head.unroll_steps, or use longer episodes"
                )
            self._windows = (episodes, HindsightPairs(episodes.lengths, horizon=K * k, smallest=K * k))
        found = self._windows[1]
        assert found is not None, "set with the episodes"
        return found
