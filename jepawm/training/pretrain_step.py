"""One update of a pretraining: clips in, losses out.

```
target  = LN(teacher(clip))                      every token of the clip, no gradient
z       = predictor(encoder(clip[context]), target places)
loss    = mean |z - target[target places]|       over places, mask sets and groups of clips
teacher = momentum * teacher + (1 - momentum) * encoder     after the optimizer's step
```
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jepawm.config.pretrain import PretrainConfig
from jepawm.device import autocast
from jepawm.nn.collectives import num_workers
from jepawm.pretraining.masks import Cues, DrawnGroup, LearnedMasks, MaskSet, MaskStrategy, mean_shares, realised
from jepawm.pretraining.objective import MaskedClips, Pretraining
from jepawm.seeding import stream_generator
from jepawm.training.optim import schedule_
from jepawm.training.pretrain_state import PretrainState
from jepawm.training.update import apply_gradients, backward_of_parts
from jepawm.types import ClipBatch, ClipGroup


@dataclass(frozen=True)
class ShownGroup:
    """A group of clips on the device, and what is hidden of it.

    Attributes:
        group: As it was read.
        masked: Normalised clips with their mask sets.
        features_BLD: The teacher's tokens that the masks were drawn by; None: they were drawn without.
    """

    group: ClipGroup
    masked: MaskedClips
    features_BLD: Tensor | None = None


class PretrainUpdate:
    """Makes the updates of one stage.

    Args:
        config: The pretraining.
        state: Changed in place, except for its train step.
        stage: Number of the stage.
        compute: `state.module`, or what shares its gradients among workers.
        device: Where it lives.
    """

    def __init__(
        self, config: PretrainConfig, state: PretrainState, stage: int, *, compute: nn.Module, device: torch.device
    ) -> None:
        self.config, self.state, self.stage, self.compute, self.device = config, state, stage, compute, device
        self._optim, self._counts_from, self._num_steps = config.schedule_of(stage)

    def __call__(self, batch: ClipBatch) -> dict[str, Tensor]:
        """One update.

        Args:
            batch: This worker's share of the clips.

        Returns:
            Terms of the loss, realised shares of the masks, `gradient_norm`, and of learned masks the scorer's terms.
        """
        config, state = self.config, self.state
        train_step, strategy = state.train_step, state.masks[self.stage]
        counted = train_step - self._counts_from
        schedule_(state.optimizer, self._optim, counted, self._num_steps)
        state.optimizer.zero_grad(set_to_none=True)
        shown = show_groups(
            state.module,
            batch,
            strategy,
            seed=config.seed,
            drawn=state.drawn,
            precision=config.train.precision,
            device=self.device,
        )
        parts = parts_of(shown, config.train.micro_batches)
        errors: list[tuple[tuple[Tensor, ...], ...]] = []

        def forward(part: Sequence[MaskedClips]) -> dict[str, Tensor]:
            with autocast(config.train.precision, self.device):
                found = self.compute(part, train_step)
            errors.append(found.target_losses)
            return found.scalars()

        terms = backward_of_parts(self.compute, parts, forward, state.scaler)
        terms |= apply_gradients(
            state.module, state.optimizer, state.scaler, self._optim.largest_gradient_norm
        )
        state.module.update_teacher(config.model.teacher.momentum_at(train_step, config.num_train_steps))
        for each in batch.groups:
            state.drawn[each.index] = state.drawn.get(each.index, 0) + 1
        return terms | shares_of(shown)

    @property
    def learning_rate(self) -> float:
        """Of the update before."""
        return float(self.state.optimizer.param_groups[0]["lr"])


def show_groups(
    module: Pretraining,
    batch: ClipBatch,
    strategy: MaskStrategy,
    *,
    seed: int,
    drawn: dict[int, int],
    precision: str,
    device: torch.device,
) -> list[ShownGroup]:
    """Draws the masks of a batch; groups of which this worker has no clip are left out.

    The masks of a train step depend on (seed, train step) and, where they are drawn by what clips show, on the clips.

    Args:
        module: Its teacher is what masks may be drawn by.
        batch: This worker's share.
        strategy: Draws them.
        seed: Of the run.
        drawn: How often masks were drawn for each group before.
        precision: Of the teacher.
        device: Where the module lives.
    """
    shown = []
    for group in batch.groups:
        if not len(group):
            continue
        pixels_BTCYX = torch.from_numpy(group.pixels)
        clips_BCTYX = normalised(module, pixels_BTCYX.to(device, non_blocking=True))
        features, cues = None, Cues()
        if "features" in strategy.needs:
            with autocast(precision, device):
                features = module.targets(clips_BCTYX)
            # The deepest level comes last.
            cues = replace(cues, features_BLD=features[..., -module.encoder.latent_dim :])
        if "pixels" in strategy.needs:
            cues = replace(cues, pixels_BTCYX=pixels_BTCYX)
        grid = module.token_grid(group.num_frames, *clips_BCTYX.shape[-2:])
        sets = strategy.draw(
            grid,
            num_clips=group.num_clips,
            rows=group.rows,
            counter=drawn.get(group.index, 0),
            generator=stream_generator(seed, "masks", batch.train_step, group.index),
            cues=cues,
        )
        sets = tuple(each.to(device) for each in sets)
        # Clips of all workers weigh the same, and so do groups.
        weight = num_workers() * len(group) / (group.num_clips * len(batch.groups))
        masked = MaskedClips(clips_BCTYX, grid, sets, mask_token=group.index, weight=weight, targets_BLE=features)
        shown.append(ShownGroup(group, masked, cues.features_BLD))
    return shown


def normalised(module: Pretraining, pixels_BTCYX: Tensor) -> Tensor:
    """`[B,C,T,Y,X]` frames as the encoder takes them, of `[B,T,C,Y,X]` uint8."""
    preprocess = module.encoder.preprocess
    return (pixels_BTCYX * preprocess.scale + preprocess.offset).transpose(1, 2)


def parts_of(shown: Sequence[ShownGroup], micro_batches: int) -> list[list[MaskedClips]]:
    """Equal parts of a worker's clips, in their order; a part may hold clips of several groups.

    A part's weights are such that the mean of the parts' losses is the loss of the whole.
    """
    if micro_batches == 1:
        return [[each.masked for each in shown]]
    size = sum(len(each.group) for each in shown) // micro_batches
    parts = []
    for number in range(micro_batches):
        part, before = [], 0
        for each in shown:
            count = len(each.group)
            low, high = (min(max(at - before, 0), count) for at in (number * size, (number + 1) * size))
            before += count
            if low < high:
                weight = (each.masked.weight or 0.0) * micro_batches * (high - low) / count
                part.append(_rows_of(each.masked, slice(low, high), weight))
        parts.append(part)
    return parts


def _rows_of(masked: MaskedClips, rows: slice, weight: float) -> MaskedClips:
    sets = tuple(
        replace(each, context_BL=each.context_BL[rows], target_BM=each.target_BM[rows]) for each in masked.mask_sets
    )
    targets = None if masked.targets_BLE is None else masked.targets_BLE[rows]
    return replace(masked, clips_BCTYX=masked.clips_BCTYX[rows], mask_sets=sets, weight=weight, targets_BLE=targets)
