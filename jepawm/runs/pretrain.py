"""A pretraining from end to end: clips -> a trained video encoder -> an encoder folder that world models train on.

```
RUN/
  config.yaml      resolved configuration          metrics.jsonl   metrics of training, the truth
  recipe           name of the recipe              checkpoints/    resumable training states
  encoder/         the exported encoder            wall_s.json     wall time of each stage
  finished         empty; there once the encoder is
```
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jepawm.config import home
from jepawm.config.clips import ClipsConfig
from jepawm.config.places import is_uri, local_path
from jepawm.config.pretrain import PretrainConfig
from jepawm.console import Console
from jepawm.data.clips.sources import ClipSource
from jepawm.device import pick_device
from jepawm.encoders.exported import export_encoder
from jepawm.errors import ConfigError, JepawmError
from jepawm.interrupts import telling_how_to_go_on
from jepawm.pretraining.objective import build_pretraining
from jepawm.runs.directory import FINISHED, check_run_dir, discard_new_run, lock_run, prepare_run_dir, sweep_leftovers
from jepawm.runs.pipeline import LONG_DATA_WAIT, started_runtime
from jepawm.runs.placement import tell_placement
from jepawm.runs.preflight.clips import check_masks, open_clips
from jepawm.runs.preflight.machine import check_capacity, check_disk, check_writable, joins_a_cluster
from jepawm.runs.runtime import Runtime
from jepawm.runs.tracking import code_version, outcome_of, pretraining_sink, tracked
from jepawm.runs.usage import RunUsage, usage_lines
from jepawm.runs.wall_times import WallTimes
from jepawm.storage.holding import where
from jepawm.storage.reading import fetched
from jepawm.tracking import METRICS_FILE, MetricsFollower, Outcome, Record, read_metrics
from jepawm.tracking.mlflow_sink import Status
from jepawm.training.checkpoint import checkpoint_step, newest_checkpoint
from jepawm.training.pretrain_state import fresh_pretrain_state, restore_pretraining

ENCODER = "encoder"


def pretrain_run(config: PretrainConfig, recipe: str, console: Console) -> str:
    """Pretrains an encoder; a pretraining that cannot work is refused before Ray starts and before anything is written.

    Args:
        config: The resolved configuration.
        recipe: Name of its recipe.
        console: Where progress is shown.

    Returns:
        The folder of the exported encoder, RUN/encoder.
    """
    check_pretraining(config)
    with started_runtime(config, console) as runtime:
        return pretrain(config, recipe, runtime, console)


def check_pretraining(config: PretrainConfig) -> None:
    """Refuses a pretraining that cannot work.

    Raises:
        ConfigError: Says which setting is wrong.
        DataError: A source of clips that is missing or cannot be read.
        CheckpointError: Weights that are missing or another encoder's.
    """
    if not config.clips.all_sources:
        raise ConfigError("clips names no source; pass --clips.paths FOLDER, a dataset or a folder of video files")
    if config.local or not joins_a_cluster():
        pick_device(config.device)
    if not config.local and not joins_a_cluster():
        check_capacity(config.scaling, float(os.cpu_count() or 1))
    if not any(is_uri(each.path) for each in config.clips.all_sources):
        open_clips(config)
    check_run_dir(config)
    check_writable(local_path(config.run_dir or home()), "run_dir" if config.run_dir else "$JEPAWM_HOME")
    module = build_pretraining(config.model, config.stages[-1].image_size)
    check_masks(config, module)
    # Weights and moments in float32, and the teacher's weights.
    trained = [part.numel() for part in module.parameters() if part.requires_grad]
    checkpoint = 12 * sum(trained) + 4 * sum(part.numel() for part in module.teacher.parameters())
    kept = config.train.num_checkpoints_kept + 1
    check_disk({"checkpoints": (local_path(config.run_dir or home()), float(kept * checkpoint))})


def pretrain(config: PretrainConfig, recipe: str, runtime: Runtime, console: Console) -> str:
    """Pretrains an encoder on a runtime.

    Args:
        config: The resolved configuration, which `check_pretraining` accepts.
        recipe: Name of its recipe.
        runtime: Where the work happens.
        console: Where progress is shown.

    Returns:
        The folder of the exported encoder, RUN/encoder.

    Raises:
        BudgetError: `max_gpu_hours` is used up; the run ended at a checkpoint.
    """
    before = console.elapsed_s()
    plan = runtime.place_pretraining(config)
    run_dir, resumed = prepare_run_dir(config, recipe, console.say)
    with lock_run(run_dir, console.say), telling_how_to_go_on(lambda: _how_to_go_on(config, run_dir)):
        sweep_leftovers(run_dir)
        runtime.keep_log(run_dir)
        used = RunUsage(run_dir, runtime.usage, config.max_gpu_hours)
        console.say(f"run        {where(run_dir)}{' (continued)' if resumed else ''}")
        console.say(f"runs on    {runtime.describe()}")
        tell_placement(plan, console)
        used.check(lambda: _how_to_go_on(config, run_dir))
        config = replace(config, run_dir=None)
        try:
            # Sources at URIs are here now, and so are refused here.
            reads = with_local_clips(config)
            _tell_clips(reads, open_clips(reads), console)
        except JepawmError:
            if not resumed:
                discard_new_run(run_dir)
            raise
        times = WallTimes(run_dir, console, before)
        times.save()
        tags = {"kind": "pretraining", "recipe": recipe, "code_version": code_version()}
        sink = pretraining_sink(config, run_dir, tags)

        def outcome(status: Status) -> Outcome:
            return outcome_of(run_dir, status, config.tracking)

        with (
            runtime.usage.holding(runtime.share("driver", config)),
            tracked(sink, config.tracking, console, folder=run_dir, outcome=outcome),
        ):
            try:
                checkpoint = _train(reads, run_dir, runtime, console, used)
                used.check(lambda: _how_to_go_on(config, run_dir))
                encoder = export(config, checkpoint, run_dir)
                Path(run_dir, FINISHED).touch()
            finally:
                times.save()
                used.save()
        for line in usage_lines(used.total(), config.tracking):
            console.say(line)
        _tell_encoder(encoder, console)
        return encoder


def with_local_clips(config: PretrainConfig, fetch: Callable[[str], str] = fetched) -> PretrainConfig:
    """The same pretraining with absolute paths of its clips; those at URIs are brought here.

    Args:
        config: The resolved configuration.
        fetch: Brings a folder at a URI, and returns the local one; or names a local one for other machines.
    """
    found = [(each, fetch(each.path)) for each in config.clips.all_sources]
    sources = tuple(replace(each, path=path if is_uri(path) else os.path.abspath(path)) for each, path in found)
    clips: ClipsConfig = replace(config.clips, paths=(), sources=sources)
    return replace(config, clips=clips)


def export(config: PretrainConfig, checkpoint: str, run_dir: str) -> str:
    """Writes the teacher of a checkpoint as an encoder folder, RUN/encoder; returns the folder."""
    state = fresh_pretrain_state(config, pick_device("cpu"))
    restore_pretraining(checkpoint, state)
    folder = os.path.join(run_dir, ENCODER)
    export_encoder(state.module.teacher.encoder, folder)
    return folder


def _train(config: PretrainConfig, run_dir: str, runtime: Runtime, console: Console, used: RunUsage) -> str:
    """Trains, or finds what was trained earlier; returns the folder of the last checkpoint."""
    steps = config.num_train_steps
    newest = newest_checkpoint(os.path.join(run_dir, "checkpoints"))
    if newest is not None and checkpoint_step(newest) == steps:
        console.say(f"encoder    {newest} (trained earlier)")
        return newest
    what = f"{config.model.encoder.name}, {steps} train steps in {len(config.stages)} stage(s): "
    what += "; ".join(
        f"{stage.num_train_steps} of {stage.batch_size} clips of {stage.num_frames} frames, {stage.image_size} px"
        for stage in config.stages
    )
    with console.stage("pretrain", what), console.bar("train steps", steps) as advance:

        def show(record: Record) -> None:
            runtime.show({"train_step": record["train_step"]} | used.total().numbers(config.tracking))
            speed, loss = record.get("train/clips_per_s", float("nan")), record.get("train/loss", float("nan"))
            stage = f"stage {record['train/stage']}, " if len(config.stages) > 1 else ""
            advance(record["train_step"], f"{stage}loss {loss:.3f}, {speed:.0f} clips/s")
            used.save_now_and_then()

        with MetricsFollower(os.path.join(run_dir, METRICS_FILE), show):
            checkpoint = runtime.pretrain(config, run_dir, spent=used.spent)
    _tell_problems(read_metrics(os.path.join(run_dir, METRICS_FILE)), console)
    return checkpoint


def _tell_clips(config: PretrainConfig, sources: tuple[ClipSource, ...], console: Console) -> None:
    for number, (each, source) in enumerate(zip(config.clips.all_sources, sources, strict=True)):
        train, held_out = source.split(config.clips.held_out_fraction, config.seed)
        weight = "" if each.weight is None else f", weight {each.weight:g}"
        console.say(
            f"{'' if number else 'clips':<10} {each.path}: {len(train)} videos, {len(held_out)} held out{weight}"
        )


def _tell_problems(records: list[Record], console: Console) -> None:
    waits = [record["train/data_wait_fraction"] for record in records if "train/data_wait_fraction" in record]
    if waits and sum(waits) / len(waits) > LONG_DATA_WAIT:
        console.say(
            f"   training waited for clips {100 * sum(waits) / len(waits):.0f} % of its time; clips.loader 'cache' "
            "decodes datasets once, more CPUs for each worker decode more at a time"
        )
    measured = [record for record in records if "diagnostics/collapsed" in record]
    if measured and measured[-1]["diagnostics/collapsed"]:
        console.say("   WARNING: the latents have collapsed (diagnostics/latent_std_mean); the encoder is worthless")


def _tell_encoder(encoder: str, console: Console) -> None:
    console.say(f"encoder    {where(encoder)}")
    console.say(f"use it     jepawm train --model.encoder.weights {where(encoder)} --model.encoder.no-trainable")


def _how_to_go_on(config: PretrainConfig, run_dir: str) -> str:
    """From which train step a pretraining that was interrupted goes on, by the checkpoints on its disk."""
    steps = config.num_train_steps
    made = checkpoint_step(newest_checkpoint(os.path.join(run_dir, "checkpoints"))) or 0
    command = "the same command"
    if config.resume == "never":
        command = f"`jepawm pretrain --recipe {run_dir}/config.yaml --run-dir {where(run_dir)}`"
    if made == steps:
        return f"training is done (train step {steps}), and {command} exports the encoder"
    if made:
        number = config.stage_at(made)
        return f"{command} goes on from train step {made} of {steps} (stage {number + 1} of {len(config.stages)})"
    return f"no checkpoint was written yet, so {command} begins at train step 0 of {steps}"
