"""The training loop: the same on a laptop, in a Ray Train worker and in a test. It knows nothing of Ray."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from jepawm.config import OptimConfig, TrainConfig
from jepawm.device import autocast
from jepawm.errors import TrainingError
from jepawm.seeding import stream_seed
from jepawm.training.optim import build_optimizer, learning_rate
from jepawm.training.step import TrainingObjective, to_device
from jepawm.types import WindowBatch

Metrics = dict[str, Any]


@dataclass
class TrainingState:
    """All that an update changes, and so all that a checkpoint must hold.

    Attributes:
        objective: The world model with its training-only head.
        optimizer: AdamW and its moments.
        train_step: Updates made.
        seconds: Training time spent, over all resumes.
    """

    objective: TrainingObjective
    optimizer: torch.optim.Optimizer
    train_step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, objective: TrainingObjective, config: OptimConfig) -> "TrainingState":
        """A state before the first update."""
        return cls(objective, build_optimizer(objective, config))


@dataclass
class Hooks:
    """What the loop calls on the way; each is optional and called on every worker.

    Attributes:
        on_metrics: Gets one flat record every `log_every` steps.
        on_checkpoint: Gets the state and the last metrics; every `checkpoint_every` steps and at the end.
        diagnose: Returns metrics of the model on held-out windows, every `diagnostics_every` steps.
        stop: Asked after every step, with the updates made; True, on all workers alike, ends training after a
            checkpoint. See `jepawm.training.stopping`.
    """

    on_metrics: Callable[[Metrics], None] | None = None
    on_checkpoint: Callable[[TrainingState, Metrics], None] | None = None
    diagnose: Callable[[TrainingState], Metrics] | None = None
    stop: Callable[[int], bool] | None = None


@dataclass
class _Meter:
    """Sums on the device; read once per log line, so that no step waits for the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    wait_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1


def fit(
    state: TrainingState,
    batches: Iterator[WindowBatch],
    train: TrainConfig,
    optim: OptimConfig,
    *,
    device: torch.device,
    hooks: Hooks | None = None,
) -> TrainingState:
    """Trains from `state.train_step` to `train.num_train_steps`, or to the step at which `hooks.stop` says so.

    Args:
        state: Fresh, or restored from a checkpoint; changed in place.
        batches: This worker's share of each global batch, from `state.train_step` on.
        train: Steps, batch size, intervals.
        optim: Optimizer and schedule.
        device: Where the objective lives.
        hooks: Called on the way.

    Returns:
        The state after the last update.

    Raises:
        TrainingError: A loss that is not finite, or batches that end early.
    """
    hooks = hooks or Hooks()
    workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    compute: torch.nn.Module = state.objective
    if workers > 1:
        compute = DistributedDataParallel(state.objective, device_ids=[device] if device.type == "cuda" else None)
    state.objective.train()
    meter, watch = _Meter(), _LossWatch(device)
    began = time.perf_counter() - state.seconds
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as reader:
        next_batch = reader.submit(next, batches, None)
        while state.train_step < train.num_train_steps:
            waited = time.perf_counter()
            batch = next_batch.result()
            meter.wait_s += time.perf_counter() - waited
            if batch is None:
                raise TrainingError(
                    f"the data ended at train step {state.train_step} of {train.num_train_steps}; a batch source must "
                    "go on from epoch to epoch"
                )
            if state.train_step + 1 < train.num_train_steps:
                next_batch = reader.submit(next, batches, None)
            rate = learning_rate(optim, state.train_step, train.num_train_steps)
            terms = update(compute, state, batch, rate, optim.grad_clip_norm, train.precision, device)
            watch.see(terms["loss"], state.train_step)
            meter.add(terms)
            state.train_step += 1
            state.seconds = time.perf_counter() - began

            last = state.train_step == train.num_train_steps
            log = last or state.train_step % train.log_every == 0
            measure = hooks.diagnose is not None and (last or state.train_step % train.diagnostics_every == 0)
            stop = not last and hooks.stop is not None and hooks.stop(state.train_step)
            save = last or stop or state.train_step % train.checkpoint_every == 0
            if not (log or measure or save):
                continue
            watch.check()
            record = _record(meter, state, batch_size=train.batch_size, rate=rate)
            if measure and hooks.diagnose is not None:
                record.update(hooks.diagnose(state))
                state.objective.train()
            if (log or measure) and hooks.on_metrics is not None:
                hooks.on_metrics(record)
            if save and hooks.on_checkpoint is not None:
                hooks.on_checkpoint(state, record)
            if stop:
                break
            meter = _Meter()
    return state


def update(
    compute: torch.nn.Module,
    state: TrainingState,
    batch: WindowBatch,
    rate: float,
    grad_clip_norm: float | None,
    precision: str,
    device: torch.device,
) -> dict[str, Tensor]:
    """One update: forward, backward, clip, step.

    Returns:
        The terms of the loss and the gradient norm, on the device.
    """
    pixels, proprio, actions = to_device(batch, device)
    with _dropout_of(state, device), autocast(precision, device):
        terms: dict[str, Tensor] = compute(pixels, proprio, actions, state.train_step)
    state.optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    limit = float("inf") if grad_clip_norm is None else grad_clip_norm
    terms["gradient_norm"] = torch.nn.utils.clip_grad_norm_(state.objective.parameters(), limit)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    return terms


@contextlib.contextmanager
def _dropout_of(state: TrainingState, device: torch.device) -> Iterator[None]:
    """Dropout draws from (run seed, train step), so that a resumed run draws what an uninterrupted one does."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream_seed(state.objective.seed, "dropout", state.train_step))
        yield


class _LossWatch:
    """Remembers the first step whose loss was not finite, without reading the device at every step."""

    def __init__(self, device: torch.device) -> None:
        self.first = torch.full((), -1, dtype=torch.int64, device=device)

    def see(self, loss: Tensor, train_step: int) -> None:
        now = torch.full_like(self.first, train_step)
        self.first = torch.where((self.first < 0) & ~torch.isfinite(loss.detach()), now, self.first)

    def check(self) -> None:
        step = int(self.first)
        if step >= 0:
            raise TrainingError(
                f"the loss at train step {step} is not finite (NaN or infinite); nothing was saved since. Lower "
                "optim.learning_rate, set train.precision to float32, or look at the data with `jepawm data check`"
            )


def _record(meter: _Meter, state: TrainingState, *, batch_size: int, rate: float) -> Metrics:
    elapsed = time.perf_counter() - meter.started
    record: Metrics = {"train_step": state.train_step}
    record.update({f"train/{name}": float(total) / meter.steps for name, total in meter.sums.items()})
    record["train/learning_rate"] = rate
    record["train/windows_per_s"] = meter.steps * batch_size / elapsed
    record["train/data_wait_fraction"] = meter.wait_s / elapsed
    record["train/seconds"] = state.seconds
    return record
