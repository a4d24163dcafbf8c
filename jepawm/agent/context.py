"""What an agent remembers of its episodes: the observed latents that the model looks back to."""

import torch
from torch import Tensor

from jepawm.latent import Latent, concatenate


class Context:
    """The last `window` observed latents of every episode, and the chunks between them."""

    def __init__(self, window: int, first: Latent) -> None:
        self.window = window
        self.latents = first
        self.actions_BLA: Tensor | None = None

    def append(self, latents: Latent, chunks_BnA: Tensor) -> None:
        """Adds what was observed after each executed chunk, and those chunks."""
        past = chunks_BnA if self.actions_BLA is None else torch.cat([self.actions_BLA, chunks_BnA], dim=1)
        self.latents = concatenate([self.latents, latents], axis=1)[:, -self.window :]
        kept = self.latents.lead[1] - 1
        self.actions_BLA = past[:, past.shape[1] - kept :] if kept else None

    def select(self, rows: Tensor) -> None:
        """Keeps the given episodes."""
        self.latents = self.latents[rows]
        if self.actions_BLA is not None:
            self.actions_BLA = self.actions_BLA[rows]
