"""Trains a head on frozen latents: on a laptop, in a job, in a test; without Ray."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepawm.config.head import HeadTrainConfig
from jepawm.config.training import OptimConfig
from jepawm.device import autocast
from jepawm.errors import CheckpointError, TrainingError, first_line
from jepawm.seeding import stream_generator, stream_seed
from jepawm.training.head_tasks import HeadBatch, HeadTask
from jepawm.training.latent_episodes import LatentEpisodes
from jepawm.training.optim import build_optimizer, learning_rate

Record = dict[str, Any]


@dataclass(frozen=True)
class HeadProgress:
    """How far the training of a head came.

    Attributes:
        train_step: Updates made.
        seconds: Training time spent, over all parts.
        task: State of the head and its scales.
        optimizer: State of the optimizer.
    """

    train_step: int
    seconds: float
    task: dict[str, Any]
    optimizer: dict[str, Any]

    @classmethod
    def of(cls, task: HeadTask, optimizer: torch.optim.Optimizer, train_step: int, seconds: float) -> "HeadProgress":
        """The progress of a training; its tensors are those of the training."""
        return cls(train_step, seconds, task.state_dict(), optimizer.state_dict())

    def restore(self, task: HeadTask, optimizer: torch.optim.Optimizer) -> None:
        """Puts the states back.

        Raises:
            CheckpointError: They are of another head.
        """
        try:
            task.load_state_dict(self.task)
            optimizer.load_state_dict(self.optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"the kept state is of another head: {first_line(error)}") from error


def fit_head(
    task: HeadTask,
    episodes: LatentEpisodes,
    train: HeadTrainConfig,
    optim: OptimConfig,
    *,
    seed: int,
    on_metrics: Callable[[Record], None] | None = None,
    begin: HeadProgress | None = None,
    on_checkpoint: Callable[[HeadProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> HeadTask:
    """Trains a head; a batch is a pure function of (seed, train step), so a resumed training is an uninterrupted one.

    Args:
        task: A fresh head with its loss, on the latents' device; changed in place.
        episodes: Of the training split.
        train: Updates, batch size, precision.
        optim: AdamW and its schedule.
        seed: Of the batches and of dropout.
        on_metrics: Gets one flat record every `log_every` steps and after the last one.
        begin: What an earlier training of the same head left.
        on_checkpoint: Gets the progress every `checkpoint_every` steps, and where `stop` ends the training.
        stop: Asked after every step whether to end after a checkpoint.

    Returns:
        The task, with its head trained and in evaluation mode.

    Raises:
        TrainingError: A loss that is not finite.
        CheckpointError: `begin` is of another head.
        DataError: Episodes that hold no pair of frames.
    """
    task.prepare(episodes)
    optimizer = build_optimizer(task.head, optim)
    began, summed, first = time.perf_counter(), 0, 0
    if begin is not None:
        begin.restore(task, optimizer)
        began, first = began - begin.seconds, begin.train_step
    task.train()
    sums: dict[str, Tensor] = {}
    for train_step in range(first, train.num_train_steps):
        batch = task.draw(episodes, train.batch_size, stream_generator(seed, "head_batch", train_step))
        rate = learning_rate(optim, train_step, train.num_train_steps)
        with torch.random.fork_rng(devices=_cuda_devices(batch)):
            torch.manual_seed(stream_seed(seed, "head_dropout", train_step))
            terms = update(task, optimizer, batch, rate, train.precision, optim.largest_gradient_norm)
        summed += 1
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.detach()

        done = train_step + 1
        ends = done < train.num_train_steps and stop is not None and stop()
        save = on_checkpoint is not None and (ends or done % train.checkpoint_every == 0)
        if done % train.log_every and done != train.num_train_steps and not save:
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
        if save and on_checkpoint is not None:
            on_checkpoint(HeadProgress.of(task, optimizer, done, time.perf_counter() - began))
        if ends:
            break
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
