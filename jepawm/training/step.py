"""One update: windows in, losses out. This file reads like the loss in the README."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepawm.config import LossConfig
from jepawm.heads import InverseDynamicsHead
from jepawm.losses import prediction_loss, sigreg, temporal_variance, time_similarity, variance_covariance
from jepawm.seeding import stream_generator
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel


class TrainingObjective(nn.Module):
    """The world model with the head and the terms that only training needs.

    `loss = sum_i weight_i * term_i`, over windows that are encoded whole and then predicted, by an unroll from their
    first frame or each frame from the true ones before it. An encoder that is frozen has no anti-collapse terms.

    Args:
        model: The world model that is trained.
        config: Weights of the terms.
        seed: Of SIGReg's random directions, with the train step.
    """

    def __init__(self, model: WorldModel, config: LossConfig, *, seed: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed
        self.frozen = not model.config.encoder.trainable
        self.inverse_dynamics: InverseDynamicsHead | None = None
        if config.inverse_dynamics and not self.frozen:
            self.inverse_dynamics = InverseDynamicsHead(model.num_patches, model.latent_dim, model.action_dim)

    def forward(
        self,
        pixels_BTCYX: UInt8[Tensor, "B T C Y X"] | Float[Tensor, "B T P D"],
        proprio_BTR: Float[Tensor, "B T R"],
        actions_BKA: Float[Tensor, "B K A"],
        train_step: int,
    ) -> dict[str, Tensor]:
        """Computes every term of the loss.

        Args:
            pixels_BTCYX: `[B,T,C,Y,X]` uint8 frames, frameskip environment steps apart, or their stored features.
            proprio_BTR: `[B,T,R]` raw proprio at the same moments.
            actions_BKA: `[B,T-1,A]` raw chunks between them.
            train_step: Fixes SIGReg's directions.

        Returns:
            Scalars: `loss`, and each active term before its weight.
        """
        weights = self.config
        latents = self.model.encode(pixels_BTCYX, proprio_BTR)
        if weights.supervision == "unroll":
            predicted = self.model.unroll(latents[:, :1], actions_BKA)
        else:
            predicted = self.model.predict(latents[:, :-1], actions_BKA)
        read_BKA = None if self.inverse_dynamics is None else self.inverse_dynamics(latents.visual)
        # The terms are statistics of the batch: their sums need float32, whatever the layers compute in.
        with torch.autocast(pixels_BTCYX.device.type, enabled=False):
            terms = {"prediction": prediction_loss(predicted.visual, latents.visual[:, 1:])}
            learnt = weights.proprio_prediction and not self.model.integrates_pose
            if learnt and predicted.proprio is not None and latents.proprio is not None:
                terms["proprio_prediction"] = prediction_loss(predicted.proprio, latents.proprio[:, 1:])
            if read_BKA is not None:
                terms["inverse_dynamics"] = (read_BKA - self.model.normalize_actions(actions_BKA)).square().mean()
            if not self.frozen:
                terms.update(self._anti_collapse(latents.visual, train_step))
            loss = sum(getattr(weights, name) * term for name, term in terms.items())
        return {"loss": loss, **terms}  # type: ignore[dict-item]

    def _anti_collapse(self, latents_BTPD: Tensor, train_step: int) -> dict[str, Tensor]:
        """Terms that shape the latents of an encoder that trains."""
        weights, terms = self.config, {}
        if weights.variance or weights.covariance:
            samples = [latents_BTPD.flatten(0, 1)] if weights.moments == "all" else list(latents_BTPD.unbind(dim=1))
            both = torch.stack([torch.stack(variance_covariance(part.flatten(1))) for part in samples])
            pair = dict(zip(("variance", "covariance"), both.mean(dim=0).unbind(), strict=True))
            terms.update({name: term for name, term in pair.items() if getattr(weights, name)})
        if weights.temporal_variance:
            terms["temporal_variance"] = temporal_variance(latents_BTPD)
        if weights.time_similarity:
            terms["time_similarity"] = time_similarity(latents_BTPD)
        if weights.sigreg:
            generator = stream_generator(self.seed, "sigreg", train_step, device=latents_BTPD.device)
            terms["sigreg"] = sigreg(
                latents_BTPD.flatten(2), num_projections=weights.sigreg_num_projections, generator=generator
            )
        return terms


def to_device(batch: WindowBatch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of windows as tensors on a device.

    Returns:
        `[B,T,C,Y,X]` uint8 frames (a channels-last view, as stored) or their stored features `[B,T,P,D]` float32,
        `[B,T,R]` float32 raw proprio and `[B,T-1,A]` float32 raw action chunks.
    """
    shown = batch.pixels if batch.features is None else batch.features
    parts = [torch.from_numpy(part) for part in (shown, batch.proprio, batch.actions)]
    if device.type == "cuda":
        parts = [part.pin_memory() for part in parts]
    pixels, proprio, actions = (part.to(device, non_blocking=True) for part in parts)
    return pixels.movedim(-1, 2) if batch.features is None else pixels, proprio, actions
