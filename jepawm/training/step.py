"""One update: windows in, losses out. This file reads like the loss in the README."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepawm.config.loss import LossConfig, RolloutLossConfig
from jepawm.heads import InverseDynamicsHead
from jepawm.latent import Latent
from jepawm.losses import sigreg, straightening, temporal_variance, time_similarity, variance_covariance
from jepawm.nn.collectives import num_workers, share_of_batch
from jepawm.seeding import stream_generator, stream_seed
from jepawm.training.adversarial import perturbed
from jepawm.training.freezing import rest_frozen_
from jepawm.training.supervision import Draws, first_predictions, prediction_terms
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel


class TrainingObjective(nn.Module):
    """The world model with the head and the terms that only training needs.

    `loss = sum_i weight_i * term_i`, over windows that are encoded whole and then predicted as `loss.name` says. An
    encoder that is frozen has no anti-collapse terms.

    Args:
        model: The world model that is trained.
        config: Weights of the terms.
        seed: Of all that is drawn, with the train step.
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

    def train(self, mode: bool = True) -> "TrainingObjective":
        """Training mode for all but the parts that are frozen."""
        super().train(mode)
        rest_frozen_(self.model)
        return self

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
            train_step: Fixes what is drawn: where unrolls begin, perturbations, SIGReg's directions.

        Returns:
            Scalars: `loss`, each active term before its weight, and of unrolls the distance after each step.
        """
        return self.terms(self.model.encode(pixels_BTCYX, proprio_BTR), actions_BKA, train_step)

    def terms(self, latents: Latent, actions_BKA: Float[Tensor, "B K A"], train_step: int) -> dict[str, Tensor]:
        """The same from the latents `[B,T]` of a window; see `forward`."""
        weights, given, actions = self.config, latents, actions_BKA
        draws = self._draws(latents, train_step)
        if weights.adversarial.active:
            given, actions = perturbed(
                weights.adversarial,
                (latents, actions_BKA),
                self.model.action_std,
                lambda moved, acted: self._weighed(self._prediction_terms((moved, latents), acted, draws)),
                stream_generator(self.seed, "adversarial", train_step, device=latents.visual.device),
            )
        predicted = first_predictions(self.model, weights, given, actions)
        read_BKA = None if self.inverse_dynamics is None else self.inverse_dynamics(latents.visual)
        terms = prediction_terms(self.model, weights, predicted, (given, latents), actions, draws)
        # The terms are statistics of the batch: their sums need float32, whatever the layers compute in.
        with torch.autocast(latents.visual.device.type, enabled=False):
            if read_BKA is not None:
                terms["inverse_dynamics"] = (read_BKA - self.model.normalize_actions(actions_BKA)).square().mean()
            if not self.frozen:
                terms.update(self._anti_collapse(latents.visual, train_step))
            return {"loss": self._weighed(terms), **terms}

    def _prediction_terms(self, latents: tuple[Latent, Latent], actions_BKA: Tensor, draws: Draws) -> dict[str, Tensor]:
        predicted = first_predictions(self.model, self.config, latents[0], actions_BKA)
        return prediction_terms(self.model, self.config, predicted, latents, actions_BKA, draws)

    def _weighed(self, terms: dict[str, Tensor]) -> Tensor:
        """The loss: terms that have a weight, times it."""
        loss = sum(getattr(self.config, name) * term for name, term in terms.items() if hasattr(self.config, name))
        assert isinstance(loss, Tensor), "there is always a prediction"
        return loss

    def _draws(self, latents: Latent, train_step: int) -> Draws:
        """What is random in the supervision of one train step; it does not depend on the number of workers."""
        config = self.config
        if not isinstance(config, RolloutLossConfig) or config.rollout_steps == 1:
            return Draws()
        B, T = latents.lead
        starts = range(T - config.rollout_steps)
        prefixes: Sequence[int] = {"first": starts[:1], "all": starts, "random": ()}[config.prefixes]
        if config.prefixes == "random":
            prefixes = [starts[stream_seed(self.seed, "rollout_prefix", train_step) % len(starts)]]
        share = config.true_frames(train_step) if config.parallel else 0.0
        if not share:
            return Draws(prefixes)
        generator = stream_generator(self.seed, "true_frames", train_step)
        chosen = [
            torch.rand(B * num_workers(), T - k, generator=generator)[share_of_batch(B)] < share
            for k in range(2, config.rollout_steps + 1)
        ]
        return Draws(prefixes, [part.to(latents.visual.device) for part in chosen])

    def _anti_collapse(self, latents_BTPD: Tensor, train_step: int) -> dict[str, Tensor]:
        """Terms that shape the latents of an encoder that trains."""
        weights, terms = self.config, {}
        if weights.variance or weights.covariance:
            frames_BTF = latents_BTPD.flatten(2)
            samples_GSF = frames_BTF.flatten(0, 1)[None] if weights.moments == "all" else frames_BTF.transpose(0, 1)
            found = (term.mean() for term in variance_covariance(samples_GSF))
            pair = dict(zip(("variance", "covariance"), found, strict=True))
            terms.update({name: term for name, term in pair.items() if getattr(weights, name)})
        if weights.temporal_variance:
            terms["temporal_variance"] = temporal_variance(latents_BTPD)
        if weights.time_similarity:
            terms["time_similarity"] = time_similarity(latents_BTPD)
        if weights.straightening:
            terms["straightening"] = straightening(latents_BTPD)
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
