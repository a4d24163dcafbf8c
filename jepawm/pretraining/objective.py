"""The objective of V-JEPA pretraining: predict what the teacher says of the masked tokens from the visible ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.encoder import VJEPA1EncoderConfig
from jepawm.config.pretraining_model import PretrainingLossConfig, PretrainingModelConfig
from jepawm.encoders import build_encoder
from jepawm.encoders.video import VideoTransformer
from jepawm.errors import ConfigError
from jepawm.nn.precision import at_least_float32
from jepawm.pretraining.dense import context_weights
from jepawm.pretraining.masks import MaskSet, TokenGrid
from jepawm.pretraining.predictor import MaskPredictor
from jepawm.pretraining.teacher import Teacher


@dataclass(frozen=True)
class MaskedClips:
    """Clips of one frame count, and the mask sets that they are shown under.

    Attributes:
        clips_BCTYX: `[B,C,T,Y,X]` normalised frames; one frame for images, where the encoder takes images.
        grid: The token grid that the masks were drawn on; it must be the clips' own.
        mask_sets: Visible and masked tokens of each set.
        mask_token: Mask token of this group, by its place in the configured frame counts.
        weight: Share of the group in the loss; None: as much as every other group. A worker that holds another number
            of clips than its siblings weighs its group by `workers * own clips / (clips of all workers * groups)`.
        targets_BLE: What `Pretraining.targets` made of the clips, where masks were drawn on it; None: made here.
    """

    clips_BCTYX: Float[Tensor, "B C T Y X"]
    grid: TokenGrid
    mask_sets: tuple[MaskSet, ...]
    mask_token: int = 0
    weight: float | None = None
    targets_BLE: Float[Tensor, "B L E"] | None = None


@dataclass(frozen=True)
class PretrainingTerms:
    """What one forward pass of `Pretraining` gives; all but `loss` is without gradient.

    Attributes:
        loss: Scalar to minimise: `prediction + weight * context`.
        prediction: Scalar, the loss on masked tokens.
        context: Scalar, the loss on visible tokens before its weight; 0 where that is off.
        set_losses: Loss on masked tokens of each group and mask set, `[groups][sets]`, scalars.
        target_losses: The same before the mean over clips and tokens, `[groups][sets]`, `[B,M]` each; for a learned
            mask strategy.
    """

    loss: Tensor
    prediction: Tensor
    context: Tensor
    set_losses: tuple[tuple[Tensor, ...], ...]
    target_losses: tuple[tuple[Tensor, ...], ...]

    def scalars(self) -> dict[str, Tensor]:
        """Terms to log: `loss`, `prediction` and `context` (0 where that is off)."""
        return {"loss": self.loss.detach(), "prediction": self.prediction, "context": self.context}


class Pretraining(nn.Module):
    """Context encoder, mask predictor and teacher; forward gives the loss of a batch.

    The context encoder sees the kept tokens alone: the others are dropped before its first block. The teacher sees the
    whole clip, once for all mask sets. With `DistributedDataParallel`, take `find_unused_parameters=True`: mask tokens,
    image and video embeddings that a batch does not use have no gradient then, so they are neither moved nor decayed.

    Args:
        encoder: The context encoder; all its parameters will train.
        predictor: Built for the encoder and the loss; see `build_pretraining`.
        config: Of the loss.

    Attributes:
        encoder: As given.
        predictor: As given.
        teacher: Starts as a copy of the encoder.
        target_dim: Width `E` of a target: levels times the encoder's width.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 2; dense loss and levels as in V-JEPA 2.1
        (facebookresearch/vjepa2, app/vjepa_2_1).
    """

    def __init__(self, encoder: VideoTransformer, predictor: MaskPredictor, config: PretrainingLossConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.train_every_part()
        self.predictor = predictor
        self.teacher = Teacher(encoder)
        self.config = config
        self.target_dim = encoder.latent_dim * len(encoder.level_depths(config.target_levels))

    def token_grid(self, num_frames: int, rows_px: int, columns_px: int) -> TokenGrid:
        """The token grid of clips of a size; masks are drawn on it.

        Raises:
            ConfigError: Frames or patches that do not come out even.
        """
        return TokenGrid(*self.encoder.token_grid(num_frames, rows_px, columns_px))

    def targets(self, clips_BCTYX: Float[Tensor, "B C T Y X"]) -> Float[Tensor, "B L E"]:
        """The teacher's normalised tokens of whole clips; see `Teacher.forward`."""
        found: Tensor = self.teacher(clips_BCTYX, self.config.target_levels)
        return found

    def forward(self, groups: Sequence[MaskedClips], train_step: int = 0) -> PretrainingTerms:
        """The loss of a batch.

        Args:
            groups: One of each frame count that the batch has.
            train_step: Fixes the weight of the loss on visible tokens; from 0.

        Raises:
            ConfigError: No group, masks of another grid than the clips', or no such mask token.
        """
        if not groups or not all(group.mask_sets for group in groups):
            raise ConfigError("a batch must have at least one group of clips, and each group a mask set; found none")
        parts = [self._group(group) for group in groups]
        shares = [1 / len(groups) if group.weight is None else group.weight for group in groups]
        prediction = _weighed([torch.stack(part.set_losses).mean() for part in parts], shares)
        context = _weighed([part.context_loss for part in parts], shares)
        return PretrainingTerms(
            loss=prediction + self.config.context_weight_at(train_step) * context,
            prediction=prediction.detach(),
            context=context.detach(),
            set_losses=tuple(tuple(loss.detach() for loss in part.set_losses) for part in parts),
            target_losses=tuple(part.target_losses for part in parts),
        )

    def _group(self, group: MaskedClips) -> "_GroupTerms":
        own = self.token_grid(*group.clips_BCTYX.shape[2:])
        if own != group.grid:
            raise ConfigError(
                f"masks were drawn on a token grid of {_size(group.grid)}, but the clips "
                f"{list(group.clips_BCTYX.shape)} have {_size(own)}; draw masks on Pretraining.token_grid of the clips"
            )
        config = self.config
        given = group.targets_BLE
        targets_BLE = self.targets(group.clips_BCTYX) if given is None else given
        clips = self.encoder.embed(group.clips_BCTYX)
        set_losses, target_losses, context_losses = [], [], []
        for masks in group.mask_sets:
            context_BLE = self.encoder.levels(clips, masks.context_BL, num_levels=config.target_levels)
            predicted_BME, predicted_BLE = self.predictor(
                context_BLE, masks, group.grid, mask_token=group.mask_token, images=clips.images
            )
            losses_BM = token_losses(predicted_BME, _taken(targets_BLE, masks.target_BM), config.exponent)
            set_losses.append(losses_BM.mean())
            target_losses.append(losses_BM.detach())
            if predicted_BLE is not None:
                losses_BL = token_losses(predicted_BLE, _taken(targets_BLE, masks.context_BL), config.exponent)
                if config.context_distance != "none":
                    in_sixteenths = config.context_distance == "sixteenths"
                    losses_BL = losses_BL * context_weights(masks, group.grid, in_sixteenths=in_sixteenths)
                context_losses.append(losses_BL.mean())
        context_loss = torch.stack(context_losses).mean() if context_losses else set_losses[0].new_zeros(())
        return _GroupTerms(tuple(set_losses), tuple(target_losses), context_loss)

    def update_teacher(self, momentum: float) -> None:
        """Moves the teacher towards the encoder; call it after the optimizer's step."""
        self.teacher.update(self.encoder, momentum)


@dataclass(frozen=True)
class _GroupTerms:
    set_losses: tuple[Tensor, ...]
    target_losses: tuple[Tensor, ...]
    context_loss: Tensor


def token_losses(
    predicted_BME: Float[Tensor, "B M E"], targets_BME: Float[Tensor, "B M E"], exponent: float
) -> Float[Tensor, "B M"]:
    """`mean(|z - h|^p) / p` over the channels of each token, in float32.

    Args:
        predicted_BME: `[B,M,E]` predictions `z`.
        targets_BME: `[B,M,E]` targets `h`.
        exponent: `p`.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, equation 1 (`p` 1).
    """
    distance = (at_least_float32(predicted_BME) - at_least_float32(targets_BME)).abs()
    if exponent != 1:
        distance = distance**exponent
    return distance.mean(dim=-1) / exponent


def _taken(tokens_BLE: Tensor, index_BM: Tensor) -> Tensor:
    return tokens_BLE.take_along_dim(index_BM[:, :, None], dim=1)


def _weighed(values: list[Tensor], shares: list[float]) -> Tensor:
    return torch.stack([share * value for value, share in zip(values, shares, strict=True)]).sum()


def _size(grid: TokenGrid) -> str:
    return f"{grid.times} times, {grid.rows} rows and {grid.columns} columns"


def build_pretraining(config: PretrainingModelConfig, image_size: int) -> Pretraining:
    """Encoder, predictor and teacher that a configuration names, with a random start or the encoder's weights.

    Nothing in it depends on the size of the clips: one `Pretraining` serves all stages of a progressive resolution.

    Args:
        config: Encoder, predictor, loss.
        image_size: Side of the square frames that the exported encoder takes, pixels.

    Raises:
        ConfigError: Widths that do not go together; levels that the encoder does not have.
        CheckpointError: The encoder's weights are missing, damaged, or of another model.
    """
    encoder = build_encoder(config.encoder, image_size)
    assert isinstance(encoder, VideoTransformer), "PretrainingModelConfig refuses other kinds"
    predictor = MaskPredictor(
        encoder.latent_dim,
        config.predictor,
        num_levels=config.loss.target_levels,
        positions="table" if isinstance(config.encoder, VJEPA1EncoderConfig) else "rotary",
        rotary_pairing=encoder.rotary_pairing,
        rotary_span=encoder.rotary_span,
        predicts_context=config.loss.context_weight > 0,
        takes_images=encoder.takes_images,
    )
    return Pretraining(encoder, predictor, config.loss)
