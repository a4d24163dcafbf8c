"""One worker of a pretraining, from clips on disk to a trained state. The same for a laptop and for each Ray worker."""

from collections.abc import Callable, Generator
from contextlib import closing

import torch

from jepawm.config.pretrain import PretrainPlan
from jepawm.data.clips.sampler import ClipRequest
from jepawm.data.clips.sources import ClipSource, open_source
from jepawm.device import pick_device
from jepawm.training.clip_batches import ClipBatches
from jepawm.training.loop import Hooks, LoopPlan, Metrics, run_loop, shared_among_workers
from jepawm.training.place import TrainingPlace
from jepawm.training.pretrain_diagnostics import PretrainDiagnostics
from jepawm.training.pretrain_state import (
    PretrainSnapshot,
    PretrainState,
    fresh_pretrain_state,
    restore_pretraining,
)
from jepawm.training.pretrain_step import PretrainUpdate
from jepawm.types import ClipBatch

# Gives a worker's batches of a stage from a train step on.
ClipStream = Callable[[ClipRequest, int], Generator[ClipBatch, None, None]]


def stage_request(config: PretrainPlan, stage: int) -> ClipRequest:
    """What a stage asks of its clips."""
    each = config.stages[stage]
    return ClipRequest(
        num_frames=each.num_frames,
        image_size=each.image_size,
        batch_size=each.batch_size,
        seed=config.seed,
        first_train_step=config.first_step(stage),
        last_train_step=config.first_step(stage + 1),
    )


def run_pretraining(config: PretrainPlan, place: TrainingPlace, *, stream: ClipStream | None = None) -> PretrainState:
    """Pretrains an encoder through all stages, as one of `place.world_size` workers.

    Args:
        config: The resolved configuration.
        place: What it goes on from, and where metrics and checkpoints go.
        stream: This worker's clips, where they do not come from threads of this process.

    Returns:
        The state after the last update.

    Raises:
        ConfigError: Settings that do not go together.
        CheckpointError: A checkpoint that is damaged, or of another configuration.
        DataError: Clips that cannot be read.
        TrainingError: A loss that is not finite.
    """
    device = pick_device(config.device)
    state = fresh_pretrain_state(config, device)
    if place.restore_from is not None:
        restore_pretraining(place.restore_from, state)
    module = state.module.train()
    # Clips of one length leave the mask tokens of other lengths out.
    compute = shared_among_workers(module, device, some_unused=True)
    sources: tuple[ClipSource, ...] | None = None
    if stream is None or (place.rank == 0 and config.train.diagnostics_clips):
        sources = tuple(open_source(each, config.clips) for each in config.clips.all_sources)
    for stage in range(config.stage_at(state.train_step), len(config.stages)):
        if state.train_step == config.first_step(stage):
            # The published cool-down draws its masks as the first stage did, from the beginning.
            state.drawn = {}
        _run_stage(config, state, stage, place=place, compute=compute, stream=stream, sources=sources)
        if state.train_step < config.first_step(stage + 1):
            break
    return state


def _run_stage(
    config: PretrainPlan,
    state: PretrainState,
    stage: int,
    *,
    place: TrainingPlace,
    compute: torch.nn.Module,
    stream: ClipStream | None,
    sources: tuple[ClipSource, ...] | None,
) -> None:
    """Makes the updates of one stage that are left, or those until `place.stop` ends it."""
    request, train = stage_request(config, stage), config.train
    if state.train_step == request.last_train_step:
        return
    device = next(state.module.parameters()).device
    update = PretrainUpdate(config, state, stage, compute=compute, device=device)
    hooks: Hooks[PretrainState] = Hooks(
        on_checkpoint=lambda now, record: place.save(lambda: PretrainSnapshot.of(now), record),
        after_step=place.after_step,
        stop=place.stop,
    )
    if place.rank == 0:
        assert sources is not None or not train.diagnostics_clips
        write = place.on_metrics
        hooks.on_metrics = None if write is None else _with_stage(write, stage)
        if train.diagnostics_clips and sources is not None:
            hooks.diagnose = PretrainDiagnostics.wanted(config, stage, sources, request)
    if stream is None:
        own = {"rank": place.rank, "world_size": place.world_size, "sources": sources}
        batches = ClipBatches(config.clips, request, **own).batches(state.train_step)  # type: ignore[arg-type]
    else:
        batches = stream(request, state.train_step)
    plan = LoopPlan(
        num_train_steps=request.last_train_step,
        batch_size=request.batch_size,
        log_every=train.log_every,
        diagnostics_every=train.diagnostics_every,
        checkpoint_every=train.checkpoint_every,
        samples="clips",
    )
    with closing(batches):
        run_loop(state, batches, plan, update, rate=update.rate, device=device, hooks=hooks)


def _with_stage(write: Callable[[Metrics], None], stage: int) -> Callable[[Metrics], None]:
    return lambda record: write({**record, "train/stage": stage + 1})
