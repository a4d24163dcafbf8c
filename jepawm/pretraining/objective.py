"""The objective of V-JEPA pretraining: predict what the teacher says of the masked tokens from the visible ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.pretraining_model import PretrainingLossConfig, PretrainingModelConfig
from jepawm.encoders.vjepa import VideoTransformer
from jepawm.errors import ConfigError
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
        targets_SD: `[S,E]` at most 256 of the teacher's tokens as they leave the encoder, before the normalisation of
            targets, and `context_SD` as many of the context encoder's, for `latent_statistics`.
        context_SD: See `targets_SD`.
    """

    loss: Tensor
    prediction: Tensor
    context: Tensor
    set_losses: tuple[tuple[Tensor, ...], ...]
    target_losses: tuple[tuple[Tensor, ...], ...]
    targets_SD: Tensor
    context_SD: Tensor

    def scalars(self) -> dict[str, Tensor]:
        """Terms to log: `loss`, `prediction`, `context` (where it is on) and `prediction/GROUP.SET`."""
        raise NotImplementedError


class Pretraining(nn.Module):
    """Context encoder, mask predictor and teacher; forward gives the loss of a batch.

    The context encoder sees the kept tokens alone: the others are dropped before its first block. The teacher sees the
    whole clip, once for all mask sets. With `DistributedDataParallel`, take `find_unused_parameters=True`: mask tokens,
    image and video embeddings that a batch does not use have no gradient then, so they are neither moved nor decayed.

    Args:
        encoder: The context encoder.
        predictor: Built for the encoder and the loss; see `build_pretraining`.
        config: Of the loss.

    Attributes:
        encoder: As given.
        predictor: As given.
        teacher: Starts as a copy of the encoder.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 2; dense loss and levels as in V-JEPA 2.1
        (facebookresearch/vjepa2, app/vjepa_2_1).
    """

    def __init__(self, encoder: VideoTransformer, predictor: MaskPredictor, config: PretrainingLossConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.teacher = Teacher(encoder)
        self.config = config

    def token_grid(self, num_frames: int, rows_px: int, columns_px: int) -> TokenGrid:
        """The token grid of clips of a size; masks are drawn on it.

        Raises:
            ConfigError: Frames or patches that do not come out even.
        """
        raise NotImplementedError

    @torch.no_grad()
    def targets(self, clips_BCTYX: Float[Tensor, "B C T Y X"]) -> Float[Tensor, "B L E"]:
        """The teacher's normalised tokens of whole clips; see `Teacher.forward`."""
        raise NotImplementedError

    def forward(self, groups: Sequence[MaskedClips], train_step: int = 0) -> PretrainingTerms:
        """The loss of a batch.

        Args:
            groups: One of each frame count that the batch has.
            train_step: Fixes the weight of the loss on visible tokens; from 0.

        Raises:
            ConfigError: No group, masks of another grid than the clips', or no such mask token.
        """
        raise NotImplementedError

    def update_teacher(self, momentum: float) -> None:
        """Moves the teacher towards the encoder; call it after the optimizer's step."""
        self.teacher.update(self.encoder, momentum)


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
    raise ConfigError("not built yet")


def latent_statistics(tokens_SD: Float[Tensor, "S D"]) -> dict[str, float]:
    """Are the latents alive: `std_mean` and `std_min` over features, and `effective_rank`.

    Args:
        tokens_SD: `[S,D]` tokens of several clips, e.g. `PretrainingTerms.targets_SD`.
    """
    raise NotImplementedError
