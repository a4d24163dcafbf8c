"""Trains a head on frozen latents: on a laptop, in a job, in a test; without Ray."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jepawm.config.head import HeadTrainConfig
from jepawm.config.training import OptimConfig
from jepawm.device import autocast
from jepawm.errors import TrainingError
from jepawm.seeding import stream_generator, stream_seed
from jepawm.training.head_tasks import HeadBatch, HeadTask
from jepawm.training.latent_episodes import LatentEpisodes
from jepawm.training.optim import build_optimizer, learning_rate

Record = dict[str, Any]


def fit_head(
    task: HeadTask,
    episodes: LatentEpisodes,
    train: HeadTrainConfig,
    optim: OptimConfig,
    *,
    seed: int,
    on_metrics: Callable[[Record], None] | None = None,
) -> HeadTask:
    """Trains a head; a batch is a pure function of (seed, train step).

    Args:
        task: A fresh head with its loss, on the latents' device; changed in place.
        episodes: Of the training split.
        train: Updates, batch size, precision.
        optim: AdamW and its schedule.
        seed: Of the batches and of dropout.
        on_metrics: Gets one flat record every `log_every` steps and after the last one.

    Returns:
        The task, with its head trained and in evaluation mode.

    Raises:
        TrainingError: A loss that is not finite.
        DataError: Episodes that hold no pair of frames.
    """
    task.prepare(episodes)
    optimizer = build_optimizer(task.head, optim)
    task.train()
    began, summed = time.perf_counter(), 0
    sums: dict[str, Tensor] = {}
    for train_step in range(train.num_train_steps):
        batch = task.draw(episodes, train.batch_size, stream_generator(seed, "head_batch", train_step))
        rate = learning_rate(optim, train_step, train.num_train_steps)
        with torch.random.fork_rng(devices=_cuda_devices(batch)):
            torch.manual_seed(stream_seed(seed, "head_dropout", train_step))
            terms = update(task, optimizer, batch, rate, train.precision, optim.largest_gradient_norm)
        summed += 1
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.detach()

        done = train_step + 1
        if done % train.log_every and done != train.num_train_steps:
            continue
        means = {name: float(total) / summed for name, total in sums.items()}
        if not torch.isfinite(torch.tensor(means["loss"])):
            raise TrainingError(
                f"the head's loss is not finite (NaN or infinite) at or before train step {done}; nothing was saved. "
                "Lower optim.learning_rate, or set train.precision to float32"
            )
        if on_metrics is not None:
            record: Record = {"train_step": done, **{f"train/{name}": value for name, value in means.items()}}
            on_metrics({**record, "train/learning_rate": rate, "train/seconds": time.perf_counter() - began})
        sums, summed = {}, 0
    return task.eval()


def update(
    task: HeadTask,
    optimizer: torch.optim.Optimizer,
    batch: HeadBatch,
    rate: float,
    precision: str,
    largest_gradient_norm: float,
) -> dict[str, Tensor]:
    """One update: forward, backward, clip, step.

    Returns:
        The terms of the loss and the gradient norm, on the device.
    """
    with autocast(precision, batch.now.visual.device):
        terms = task.losses(batch)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    terms["gradient_norm"] = torch.nn.utils.clip_grad_norm_(task.head.parameters(), largest_gradient_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return terms


def _cuda_devices(batch: HeadBatch) -> list[torch.device]:
    device = batch.now.visual.device
    return [device] if device.type == "cuda" else []
