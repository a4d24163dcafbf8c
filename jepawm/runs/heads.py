"""Trains a head on the frozen latents of a model, and saves it beside the model."""

import os
import time
from dataclasses import dataclass

import numpy as np
import torch

from jepawm.checkpoints.head_folder import HeadSpec, model_dir_of, save_head
from jepawm.checkpoints.model_folder import load_world_model, weights_sha256
from jepawm.config.head import HeadJob, PairHeadConfig
from jepawm.config.yaml_io import to_dict
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split
from jepawm.device import pick_device
from jepawm.errors import CheckpointError, ConfigError, DataError
from jepawm.heads import HeadShape
from jepawm.interrupts import Interrupted, noted_signals
from jepawm.runs.episodes import find_dataset
from jepawm.runs.evaluation import trained_config
from jepawm.runs.head_progress import UnfinishedHead
from jepawm.runs.runtime import this_process
from jepawm.runs.tracking import head_sink, head_tags, tracked
from jepawm.runs.usage import UsageMeter, usage_shown
from jepawm.seeding import stream_generator, stream_seed
from jepawm.storage.holding import held
from jepawm.storage.reading import fetched, fetched_model, stored_root
from jepawm.tracking import Outcome, Record
from jepawm.training.head_tasks import HeadTask, build_task, task_class
from jepawm.training.heads import fit_head
from jepawm.training.image_metrics import EXTRA, can_measure
from jepawm.training.latent_episodes import Kept, LatentEpisodes, encode_episodes
from jepawm.world_model import WorldModel


@dataclass(frozen=True)
class TrainedHead:
    """A head that was trained and saved.

    Attributes:
        folder: Of the head, in the model folder.
        spec: What it is, with its held-out metrics.
    """

    folder: str
    spec: HeadSpec


def train_head(job: HeadJob, console: Console) -> TrainedHead:
    """Trains a head on a model's latents, measures it on held-out episodes, and saves it beside the model.

    Args:
        job: Model, head, episodes and training.
        console: Where progress is shown.

    Returns:
        The head's folder and specification.

    Raises:
        CheckpointError: No model, or a damaged one.
        ConfigError: Settings that do not fit the model.
        DataError: Episodes that are missing, that the model or the head cannot read, or that need too much memory.
        TrainingError: A loss that is not finite.
    """
    model_dir = _model_dir(job)
    # The head lies in the model's folder, so its run is held while it trains.
    with (
        usage_shown(UsageMeter(), this_process(job.device), job.tracking, console.say),
        held(stored_root(model_dir), console.say, wanted=lambda name: name.startswith("model/")),
    ):
        return _train_head(job, model_dir, console)


def _train_head(job: HeadJob, model_dir: str, console: Console) -> TrainedHead:
    began = time.perf_counter()
    device = pick_device(job.device)
    model, _ = load_world_model(model_dir, device)
    dataset, split = _episodes(job, model_dir)
    kept = _kept(job)
    about = f"{len(split.train)} training and {len(split.held_out)} held-out episodes of {dataset.path}"
    with console.stage("encode", about), console.bar("episodes", len(split.train) + len(split.held_out)) as advance:

        def encode(episode_ids: np.ndarray, before: int) -> LatentEpisodes:
            return encode_episodes(
                model,
                dataset,
                episode_ids,
                kept=kept,
                memory_gib=job.train.memory_gib,
                device=device,
                on_progress=lambda done: advance(before + done),
            )

        held_out = encode(split.held_out, 0)
        episodes = encode(split.train, len(split.held_out))
    task = _fresh_task(job, _shape(model, dataset, episodes), device)
    unfinished = UnfinishedHead(model_dir, job, weights_sha256(model_dir), dataset.fingerprint)
    summary: Record = {}
    sink = head_sink(job, unfinished.folder, head_tags(job, weights_sha256(model_dir), dataset))
    # The folder of a head that is being trained goes when the training ends.
    with tracked(sink, job.tracking, console, folder=None, outcome=lambda status: Outcome(status, dict(summary))):
        _fit(job, task, episodes, unfinished, console)
        metrics = task.measure(held_out, stream_generator(job.seed, "head_measure"))
        summary |= {f"held_out/{name}": value for name, value in metrics.items()}
    steps = job.train.num_train_steps
    records = [*unfinished.records, {"train_step": steps, **summary}]
    spec = HeadSpec(
        config=job.head,
        shape=task.shape,
        model_sha256=weights_sha256(model_dir),
        metrics=metrics,
        training={
            "job": to_dict(job),
            "dataset": {"path": str(dataset.path), "fingerprint": dataset.fingerprint},
            "num_episodes": len(split.train),
            "num_held_out_episodes": len(split.held_out),
            "device": str(device),
            # With the training of the parts before an interruption.
            "wall_s": time.perf_counter() - began + (unfinished.progress.seconds if unfinished.progress else 0.0),
        },
    )
    folder = save_head(model_dir, job.folder_name, task.finish(), spec, records)
    unfinished.remove()
    _tell(spec, folder, records, console)
    return TrainedHead(folder, spec)


def _fit(job: HeadJob, task: HeadTask, episodes: LatentEpisodes, unfinished: UnfinishedHead, console: Console) -> None:
    """Trains, from what an earlier training left; a signal ends it at a checkpoint.

    Raises:
        Interrupted: A signal asked for the end, and the state was kept.
    """
    steps, begin = job.train.num_train_steps, unfinished.progress
    number = sum(parameter.numel() for parameter in task.head.parameters())
    what = f"{job.head.name}, {number:,} parameters, {steps} train steps of {job.train.batch_size}"
    what += f" on {next(task.parameters()).device}"
    if begin is not None:
        what += f", continued from train step {begin.train_step}"
    with console.stage("train head", what), console.bar("train steps", steps) as advance, noted_signals() as request:
        done = 0

        def show(record: Record) -> None:
            nonlocal done
            unfinished.write(record)
            done = record["train_step"]
            advance(done, f"loss {record['train/loss']:.4g}")

        fit_head(
            task,
            episodes,
            job.train,
            job.optim,
            seed=job.seed,
            on_metrics=show,
            begin=begin,
            on_checkpoint=unfinished.save,
            stop=lambda: bool(request),
        )
        if request.signal_number is not None and done < steps:
            raise Interrupted(request.signal_number, f"the same command goes on from train step {done} of {steps}")


def _model_dir(job: HeadJob) -> str:
    if not job.model:
        raise CheckpointError("pass --model RUN, a run or the `model` folder of one")
    model_dir = model_dir_of(fetched_model(job.model))
    if not os.path.isfile(os.path.join(model_dir, "config.yaml")):
        raise CheckpointError(f"{model_dir} is no model folder: it has no config.yaml; pass --model RUN or RUN/model")
    if not os.access(model_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"{model_dir} cannot be written to, and the head's folder lies in it; copy the model first")
    return model_dir


def _episodes(job: HeadJob, model_dir: str) -> tuple[EpisodeDataset, Split]:
    """The episodes, split as the model's training split them where they are its own."""
    trained = trained_config(model_dir)
    own = find_dataset(trained)
    dataset = own if job.data.path is None else EpisodeDataset(fetched(job.data.path))
    if dataset is None:
        raise DataError(f"the episodes that {model_dir} was trained on are not here; pass --data.path DATASET")
    is_own = own is not None and own.fingerprint == dataset.fingerprint
    if is_own:
        split = Split.of(dataset, trained.data.held_out_fraction, trained.seed)
    else:
        split = Split.of(dataset, job.data.held_out_fraction, job.seed)
    if not len(split.held_out):
        raise DataError(
            f"no episode of {dataset.path} was held out when {model_dir} was trained (data.held_out_fraction is 0), so "
            "nothing can measure the head; pass --data.path with other episodes"
        )
    wanted = job.data.num_episodes
    if wanted is not None and wanted < len(split.train):
        chosen = np.linspace(0, len(split.train) - 1, wanted).round().astype(np.int64)
        split = Split(split.train[chosen], split.held_out)
    return dataset, split


def _kept(job: HeadJob) -> frozenset[Kept]:
    kept = task_class(job.head).kept
    if isinstance(job.head, PairHeadConfig) and not job.head.reads_proprio:
        kept -= {"proprio"}
    return kept


def _shape(model: WorldModel, dataset: EpisodeDataset, episodes: LatentEpisodes) -> HeadShape:
    proprio = episodes.latents.proprio
    state = dataset.spec.sim_state
    return HeadShape(
        grid=model.encoder.grid,
        latent_dim=model.latent_dim,
        proprio_dim=0 if proprio is None else proprio.shape[-1],
        image_size=model.image_size,
        chunk_dim=model.action_dim,
        state_names=() if state is None else _names(state.names, state.dim),
    )


def _names(names: tuple[str, ...], dim: int) -> tuple[str, ...]:
    return names or tuple(str(number) for number in range(dim))


def _fresh_task(job: HeadJob, shape: HeadShape, device: torch.device) -> HeadTask:
    """The head before its first update; its first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(job.seed, "head_weights"))
        return build_task(job.head, shape).to(device)


def _tell(spec: HeadSpec, folder: str, records: list[Record], console: Console) -> None:
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    console.say()
    console.say(f"loss        {losses[0]:.4g} at first, {losses[-1]:.4g} at the end")
    width = max(len(name) for name in spec.metrics)
    console.say(f"held out    {spec.training['num_held_out_episodes']} episodes")
    for name, value in spec.metrics.items():
        console.say(f"   {name:<{width}}  {value:.4g}")
    if "mse_mean_frame" in spec.metrics and not can_measure():
        console.say(f"   PSNR, SSIM and LPIPS are left out: pip install 'jepawm[{EXTRA}]'")
    console.say(f"head        {folder}")
