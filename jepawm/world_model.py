"""The world model: encode, predict, unroll. The one object a planner and a trainer both hold."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepawm.config import ModelConfig
from jepawm.encoders import build_encoder
from jepawm.errors import ConfigError
from jepawm.predictors import build_predictor
from jepawm.types import Statistics


class WorldModel(nn.Module):
    """An encoder and an action-conditioned predictor in latent space.

    Actions enter in raw units; their normalisation travels with the weights.

    Args:
        config: The architecture.
        image_size: Side of the square frames, pixels.
        frameskip: Environment steps per model step.
        statistics: Mean and standard deviation of raw actions, `[a]` each.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: ModelConfig, *, image_size: int, frameskip: int, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.frameskip = frameskip
        self.action_dim = frameskip * len(statistics.action_mean)
        self.encoder = build_encoder(config.encoder, image_size)
        self.num_patches = int(self.encoder.num_patches)
        self.latent_dim = int(self.encoder.latent_dim)
        self.context_window = config.predictor.context_window
        self.predictor = build_predictor(
            config.predictor, num_patches=self.num_patches, latent_dim=self.latent_dim, action_dim=self.action_dim
        )
        for name in ("action_mean", "action_std"):
            per_chunk = np.tile(getattr(statistics, name), frameskip).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(per_chunk))

    def encode(self, pixels_BTCYX: UInt8[Tensor, "B T C Y X"]) -> Float[Tensor, "B T P D"]:
        """Encodes frames, each by itself.

        Args:
            pixels_BTCYX: `[B,T,C,Y,X]` uint8, 0 to 255.

        Returns:
            `[B,T,P,D]` latents, float32.
        """
        return self.encoder(pixels_BTCYX)

    def normalize_actions(self, actions: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Raw chunks to zero mean and unit standard deviation per raw dimension."""
        if actions.shape[-1] != self.action_dim:
            raise ConfigError(
                f"the model takes action chunks of width A = {self.action_dim} (frameskip {self.frameskip} x "
                f"{self.action_dim // self.frameskip}), found {actions.shape[-1]}"
            )
        return (actions - self.action_mean) / self.action_std

    def predict(
        self, latents_BTPD: Float[Tensor, "B T P D"], actions_BTA: Float[Tensor, "B T A"]
    ) -> Float[Tensor, "B T P D"]:
        """Predicts the successor of every frame, seeing at most `context_window` frames.

        Args:
            latents_BTPD: `[B,T,P,D]` latents.
            actions_BTA: `[B,T,A]` raw chunks; chunk `t` is executed from frame `t` on.

        Returns:
            `[B,T,P,D]`; entry `t` predicts frame `t + 1`.
        """
        return self.predictor(latents_BTPD, self.normalize_actions(actions_BTA))

    def unroll(
        self,
        context_BTPD: Float[Tensor, "B T P D"],
        actions_BHA: Float[Tensor, "B H A"],
        past_actions_BLA: Float[Tensor, "B L A"] | None = None,
    ) -> Float[Tensor, "B H P D"]:
        """Predicts `H` latents one after the other, each from the last `context_window` ones.

        Args:
            context_BTPD: `[B,T,P,D]` observed latents; the last one is the present.
            actions_BHA: `[B,H,A]` raw chunks from the present on.
            past_actions_BLA: `[B,T-1,A]` raw chunks between the context frames; needed when `T > 1`.

        Returns:
            `[B,H,P,D]`; entry `k` is the latent after chunk `k`.

        Raises:
            ConfigError: The past actions do not fit the context, or a chunk has the wrong width.
        """
        T = context_BTPD.shape[1]
        found = 0 if past_actions_BLA is None else past_actions_BLA.shape[1]
        if found != T - 1:
            raise ConfigError(f"unroll: {T} context frames need {T - 1} past action chunks between them, found {found}")
        actions = actions_BHA if past_actions_BLA is None else torch.cat([past_actions_BLA, actions_BHA], dim=1)
        actions = self.normalize_actions(actions)
        latents = list(context_BTPD.unbind(dim=1))
        for now in range(T - 1, T - 1 + actions_BHA.shape[1]):
            oldest = max(0, now + 1 - self.context_window)
            window_BTPD = torch.stack(latents[oldest:], dim=1)
            latents.append(self.predictor(window_BTPD, actions[:, oldest : now + 1])[:, -1])
        return torch.stack(latents[T:], dim=1)

    def unroll_candidates(
        self,
        context_BTPD: Float[Tensor, "B T P D"],
        chunks_BNHA: Float[Tensor, "B N H A"],
        past_actions_BLA: Float[Tensor, "B L A"] | None = None,
    ) -> Float[Tensor, "B N H P D"]:
        """`unroll` for `N` candidate plans of each episode; the context is encoded and stored once per episode.

        Args:
            context_BTPD: `[B,T,P,D]` observed latents of each episode.
            chunks_BNHA: `[B,N,H,A]` raw chunks.
            past_actions_BLA: `[B,T-1,A]` raw chunks between the context frames.

        Returns:
            `[B,N,H,P,D]` predicted latents.
        """
        B, N = chunks_BNHA.shape[:2]
        spread = lambda x: x[:, None].expand(B, N, *x.shape[1:]).flatten(0, 1)  # noqa: E731
        past = None if past_actions_BLA is None else spread(past_actions_BLA)
        return self.unroll(spread(context_BTPD), chunks_BNHA.flatten(0, 1), past).unflatten(0, (B, N))
