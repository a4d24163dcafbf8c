"""One update: windows in, losses out. This file reads like the loss in the README."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepawm.config import LossConfig
from jepawm.heads import InverseDynamicsHead
from jepawm.losses import prediction_loss, sigreg, time_similarity, variance_covariance
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel


class TrainingObjective(nn.Module):
    """The world model with the head and the terms that only training needs.

    `loss = sum_i weight_i * term_i`, over windows that are encoded whole and unrolled from their first frame.

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
        self.inverse_dynamics: InverseDynamicsHead | None = None
        if config.inverse_dynamics:
            self.inverse_dynamics = InverseDynamicsHead(model.num_patches, model.latent_dim, model.action_dim)

    def forward(
        self, pixels_BTCYX: UInt8[Tensor, "B T C Y X"], actions_BTA: Float[Tensor, "B K A"], train_step: int
    ) -> dict[str, Tensor]:
        """Computes every term of the loss.

        Args:
            pixels_BTCYX: `[B,T,C,Y,X]` uint8 frames, frameskip environment steps apart.
            actions_BTA: `[B,T-1,A]` raw chunks between them.
            train_step: Fixes SIGReg's directions.

        Returns:
            Scalars: `loss`, and each active term before its weight.
        """
        weights = self.config
        latents_BTPD = self.model.encode(pixels_BTCYX)
        unrolled_BKPD = self.model.unroll(latents_BTPD[:, :1], actions_BTA)
        read_BKA = None if self.inverse_dynamics is None else self.inverse_dynamics(latents_BTPD)
        # The terms are statistics of the batch: their sums need float32, whatever the layers compute in.
        with torch.autocast(latents_BTPD.device.type, enabled=False):
            terms = {"prediction": prediction_loss(unrolled_BKPD, latents_BTPD[:, 1:])}
            if read_BKA is not None:
                terms["inverse_dynamics"] = (read_BKA - self.model.normalize_actions(actions_BTA)).square().mean()
            if weights.variance or weights.covariance:
                terms["variance"], terms["covariance"] = variance_covariance(latents_BTPD.flatten(0, 1).flatten(1))
            if weights.time_similarity:
                terms["time_similarity"] = time_similarity(latents_BTPD)
            if weights.sigreg:
                generator = torch.Generator(latents_BTPD.device).manual_seed(self.seed * 1_000_003 + train_step)
                terms["sigreg"] = sigreg(
                    latents_BTPD.flatten(2), num_projections=weights.sigreg_num_projections, generator=generator
                )
            loss = sum(getattr(weights, name) * term for name, term in terms.items())
        return {"loss": loss, **terms}  # type: ignore[dict-item]


def to_device(batch: WindowBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch of windows as tensors on a device.

    Returns:
        `[B,T,C,Y,X]` uint8 frames (a channels-last view, as stored) and `[B,T-1,A]` float32 raw action chunks.
    """
    pixels = torch.from_numpy(batch.pixels)
    actions = torch.from_numpy(batch.actions)
    if device.type == "cuda":
        pixels, actions = pixels.pin_memory(), actions.pin_memory()
    return pixels.to(device, non_blocking=True).movedim(-1, 2), actions.to(device, non_blocking=True)
