"""One update of a pretraining: clips in, losses out.

```
target  = LN(teacher(clip))                      every token of the clip, no gradient
z       = predictor(encoder(clip[context]), target places)
loss    = mean |z - target[target places]|       over places, mask sets and groups of clips
teacher = momentum * teacher + (1 - momentum) * encoder     after the optimizer's step
```
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jepawm.config.pretrain import PretrainPlan
from jepawm.device import autocast
from jepawm.errors import ConfigError
from jepawm.nn.collectives import num_workers
from jepawm.pretraining.masks import Cues, DrawnGroup, LearnedMasks, MaskStrategy, realised
from jepawm.pretraining.objective import MaskedClips, Pretraining
from jepawm.seeding import stream_generator
from jepawm.training.optim import schedule_
from jepawm.training.pretrain_state import PretrainState
from jepawm.training.schedules import learning_rate
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
        self, config: PretrainPlan, state: PretrainState, stage: int, *, compute: nn.Module, device: torch.device
    ) -> None:
        self.config, self.state, self.stage, self.compute, self.device = config, state, stage, compute, device
        self._optim, self._counts_from, self._num_steps = config.schedule_of(stage)

    def __call__(self, batch: ClipBatch) -> dict[str, Tensor]:
        """One update.

        Args:
            batch: This worker's share of the clips.

        Returns:
            Terms of the loss, `gradient_norm`, and of learned masks the scorer's terms. Of each group that this worker
            has clips of, by its index, and of each mask set `prediction/GROUP.SET` and realised shares.
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
            generator=lambda group: stream_generator(config.seed, "masks", train_step, group),
            drawn=state.drawn,
            precision=config.train.precision,
            device=self.device,
            workers=num_workers(),
        )
        parts = parts_of(shown, config.train.micro_batches)
        errors: list[tuple[tuple[Tensor, ...], ...]] = []

        def forward(part: Sequence[MaskedClips]) -> dict[str, Tensor]:
            with autocast(config.train.precision, self.device):
                found = self.compute(part, train_step)
            errors.append(found.target_losses)
            return {**found.scalars(), "loss": found.loss}

        terms = backward_of_parts(self.compute, parts, forward, state.scaler)
        terms |= apply_gradients(state.module, state.optimizer, state.scaler, self._optim.largest_gradient_norm)
        state.module.update_teacher(config.model.teacher.momentum_at(train_step, config.num_train_steps))
        whole = _of_whole_groups(shown, parts, errors)
        for each, losses in zip(shown, whole, strict=True):
            terms |= {f"prediction/{each.group.index}.{number}": one.mean() for number, one in enumerate(losses)}
        if isinstance(strategy, LearnedMasks):
            terms |= self._update_scorer(strategy, shown, whole)
        for group in batch.groups:
            state.drawn[group.index] = state.drawn.get(group.index, 0) + 1
        return terms | self._shares(shown)

    def rate(self, train_step: int) -> float:
        """The learning rate of a train step of the stage."""
        return learning_rate(self._optim, train_step - self._counts_from, self._num_steps)

    def _update_scorer(
        self, strategy: LearnedMasks, shown: Sequence[ShownGroup], losses: Sequence[tuple[Tensor, ...]]
    ) -> dict[str, Tensor]:
        """Moves the scorer of learned masks; its gradients are averaged over workers as the encoder's are."""
        optimizer = self.state.mask_optimizer
        assert optimizer is not None, "learned masks have parameters"
        train_step = self.state.train_step
        schedule_(optimizer, self._optim, train_step - self._counts_from, self._num_steps)
        optimizer.zero_grad(set_to_none=True)
        groups = []
        for each, of_group in zip(shown, losses, strict=True):
            assert each.features_BLD is not None, "learned masks are drawn by features"
            groups.append(DrawnGroup(each.masked.grid, each.masked.mask_sets, of_group, each.features_BLD))
        scored = strategy.scorer_loss(groups, train_step / self.config.num_train_steps)
        scored.loss.backward()
        average_gradients_(strategy)
        optimizer.step()
        terms = scored.to_dict()
        return {f"masks/scorer_{name}": torch.tensor(value, device=self.device) for name, value in terms.items()}

    def _shares(self, shown: Sequence[ShownGroup]) -> dict[str, Tensor]:
        """What the masks of this train step are, by group and mask set."""
        found = {}
        for each in shown:
            for number, one in enumerate(realised(each.masked.mask_sets, each.masked.grid)):
                for name in ("context_share", "target_share", "lost_targets"):
                    value = torch.tensor(getattr(one, name), device=self.device)
                    found[f"masks/{each.group.index}.{number}/{name}"] = value
        return found


def _of_whole_groups(
    shown: Sequence[ShownGroup],
    parts: Sequence[Sequence[MaskedClips]],
    errors: Sequence[tuple[tuple[Tensor, ...], ...]],
) -> list[tuple[Tensor, ...]]:
    """`[groups][sets]` losses `[B,M]` of each target, put together from the parts of a worker's share."""
    found = []
    for each in shown:
        rows = [
            losses
            for part, of_part in zip(parts, errors, strict=True)
            for masked, losses in zip(part, of_part, strict=True)
            if masked.mask_token == each.masked.mask_token
        ]
        found.append(tuple(torch.cat(of_set) for of_set in zip(*rows, strict=True)))
    return found


def average_gradients_(module: nn.Module) -> None:
    """Averages the gradients of a small module over all workers."""
    workers = num_workers()
    for parameter in module.parameters() if workers > 1 else ():
        assert parameter.grad is not None, "every parameter has a gradient"
        dist.all_reduce(parameter.grad)
        parameter.grad /= workers


def show_groups(
    module: Pretraining,
    batch: ClipBatch,
    strategy: MaskStrategy,
    *,
    generator: Callable[[int], torch.Generator],
    drawn: Mapping[int, int],
    precision: str,
    device: torch.device,
    workers: int,
) -> list[ShownGroup]:
    """Draws the masks of a batch; groups of which this worker has no clip are left out.

    Args:
        module: Its teacher is what masks may be drawn by.
        batch: This worker's share.
        strategy: Draws them.
        generator: Of the masks of a group; equal on every worker.
        drawn: How often masks were drawn for each group before.
        precision: Of the teacher.
        device: Where the module lives.
        workers: How many there are; together they have the whole batch.
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
            generator=generator(group.index),
            cues=cues,
        )
        sets = tuple(each.to(device) for each in sets)
        # Clips of all workers weigh the same, and so do groups.
        weight = workers * len(group) / (group.num_clips * len(batch.groups))
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

    Raises:
        ConfigError: Clips that cannot be split into so many equal parts.
    """
    if micro_batches == 1:
        return [[each.masked for each in shown]]
    total = sum(len(each.group) for each in shown)
    size, left = divmod(total, micro_batches)
    if left or not size:
        raise ConfigError(
            f"train.micro_batches: a worker's {total} clips cannot be split into {micro_batches} equal parts; make the "
            "batch a multiple of scaling.num_workers times train.micro_batches"
        )
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
