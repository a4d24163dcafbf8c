"""The training loop: the same on a laptop, in a Ray Train worker and in a test. It knows nothing of Ray."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jepawm.config import OptimConfig, TrainConfig
from jepawm.errors import TrainingError
from jepawm.training.optim import WeightAverage, build_optimizer
from jepawm.training.schedules import learning_rate
from jepawm.training.step import TrainingObjective
from jepawm.training.update import data_parallel, update
from jepawm.types import WindowBatch

Metrics = dict[str, Any]


class Counted(Protocol):
    """A state that the loop trains.

    Attributes:
        train_step: Updates made.
        seconds: Training time spent, over all resumes.
    """

    train_step: int
    seconds: float


State = TypeVar("State", bound=Counted)
Batch = TypeVar("Batch")


@dataclass
class TrainingState:
    """All that an update changes, and so all that a checkpoint must hold.

    Attributes:
        objective: The world model with its training-only head.
        optimizer: AdamW and its moments.
        scaler: Scales the loss under float16; off otherwise.
        average: The moving average of the weights, which is the model that plans; None where there is none.
        train_step: Updates made.
        seconds: Training time spent, over all resumes.
    """

    objective: TrainingObjective
    optimizer: torch.optim.Optimizer
    train_step: int = 0
    seconds: float = 0.0
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    average: WeightAverage | None = None

    @classmethod
    def fresh(cls, objective: TrainingObjective, optim: OptimConfig, train: TrainConfig) -> "TrainingState":
        """A state before the first update."""
        device = next(objective.parameters()).device
        return cls(
            objective,
            build_optimizer(objective, optim),
            scaler=torch.amp.GradScaler(device.type, enabled=train.precision == "float16"),
            average=None if optim.ema_decay is None else WeightAverage(objective.model, optim.ema_decay),
        )

    @contextmanager
    def planning_weights(self) -> Iterator[None]:
        """The model has the weights that plan while the context lasts: their moving average, where there is one."""
        with nullcontext() if self.average is None else self.average.instead(self.objective.model):
            yield


@dataclass
class Hooks(Generic[State]):
    """What the loop calls on the way; each is optional and called on every worker.

    Attributes:
        on_metrics: Gets one flat record every `log_every` steps.
        on_checkpoint: Gets the state and the last metrics; every `checkpoint_every` steps and at the end.
        diagnose: Returns metrics of the model on held-out samples, every `diagnostics_every` steps.
        after_step: Called after every step; raises what a checkpoint's writing met meanwhile.
        stop: Asked after every step, with the updates made; True, on all workers alike, ends training after a
            checkpoint. See `jepawm.training.stopping`.
    """

    on_metrics: Callable[[Metrics], None] | None = None
    on_checkpoint: Callable[[State, Metrics], object] | None = None
    diagnose: Callable[[State], Metrics] | None = None
    after_step: Callable[[], None] | None = None
    stop: Callable[[int], bool] | None = None


@dataclass
class _Meter:
    """Sums on the device; read once per log line, so that no step waits for the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Steps that had a term; some steps may have no sample that it is measured on."""
    steps: int = 0
    wait_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts.update(terms.keys())
        self.steps += 1


@dataclass(frozen=True)
class LoopPlan:
    """When a loop ends, and when it logs, measures and saves.

    Attributes:
        num_train_steps: The train step after which it ends, counted from the beginning of the training.
        batch_size: Samples per train step, over all workers.
        log_every: Train steps between two records of metrics.
        diagnostics_every: Train steps between two calls of `Hooks.diagnose`.
        checkpoint_every: Train steps between two checkpoints.
        samples: What a sample is called in the metrics: `train/<samples>_per_s`.
    """

    num_train_steps: int
    batch_size: int
    log_every: int
    diagnostics_every: int
    checkpoint_every: int
    samples: str = "windows"


def fit(
    state: TrainingState,
    batches: Iterator[WindowBatch],
    train: TrainConfig,
    optim: OptimConfig,
    *,
    device: torch.device,
    hooks: Hooks[TrainingState] | None = None,
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
    compute = shared_among_workers(state.objective, device)
    state.objective.train()
    if hooks.diagnose is not None:
        hooks = replace(hooks, diagnose=_then_training(hooks.diagnose))
    plan = LoopPlan(
        train.num_train_steps, train.batch_size, train.log_every, train.diagnostics_every, train.checkpoint_every
    )
    return run_loop(
        state,
        batches,
        plan,
        lambda batch: update(compute, state, batch, train=train, optim=optim, device=device),
        rate=lambda train_step: learning_rate(optim, train_step, train.num_train_steps),
        device=device,
        hooks=hooks,
    )


def shared_among_workers(module: nn.Module, device: torch.device, *, some_unused: bool = False) -> nn.Module:
    """The module, or what shares its gradients among the workers of a process group.

    Args:
        module: What trains.
        device: Where it lives.
        some_unused: Whether a train step may leave parameters out.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return module
    return data_parallel(module, device, some_unused=some_unused)


def _then_training(diagnose: Callable[[TrainingState], Metrics]) -> Callable[[TrainingState], Metrics]:
    def measured(state: TrainingState) -> Metrics:
        record = diagnose(state)
        state.objective.train()
        return record

    return measured


def run_loop(
    state: State,
    batches: Iterator[Batch],
    plan: LoopPlan,
    update: Callable[[Batch], dict[str, Tensor]],
    *,
    rate: Callable[[int], float],
    device: torch.device,
    hooks: Hooks[State],
) -> State:
    """Makes updates from `state.train_step` on, whatever is trained.

    Args:
        state: Its train step and time are counted here.
        batches: This worker's share of each global batch, from `state.train_step` on.
        plan: When it ends, logs, measures and saves.
        update: Changes the weights once; returns terms to log, `loss` among them, on the device. A record has the mean
            of each term over the steps that returned it.
        rate: The learning rate of a train step, for the record.
        device: Where the terms are.
        hooks: Called on the way.

    Returns:
        The state after the last update.

    Raises:
        TrainingError: A loss that is not finite, or batches that end early.
    """
    meter, watch = _Meter(), _LossWatch(device)
    began = time.perf_counter() - state.seconds
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as reader:
        next_batch = reader.submit(next, batches, None)
        while state.train_step < plan.num_train_steps:
            waited = time.perf_counter()
            batch = next_batch.result()
            meter.wait_s += time.perf_counter() - waited
            if batch is None:
                raise TrainingError(
                    f"the data ended at train step {state.train_step} of {plan.num_train_steps}; a batch source must "
                    "go on from epoch to epoch"
                )
            if state.train_step + 1 < plan.num_train_steps:
                next_batch = reader.submit(next, batches, None)
            terms = update(batch)
            watch.see(terms["loss"], state.train_step)
            meter.add(terms)
            state.train_step += 1
            state.seconds = time.perf_counter() - began

            if hooks.after_step is not None:
                hooks.after_step()
            last = state.train_step == plan.num_train_steps
            log = last or state.train_step % plan.log_every == 0
            measure = hooks.diagnose is not None and (last or state.train_step % plan.diagnostics_every == 0)
            stop = not last and hooks.stop is not None and hooks.stop(state.train_step)
            save = last or stop or state.train_step % plan.checkpoint_every == 0
            if not (log or measure or save):
                continue
            watch.check()
            record = _record(meter, state, plan, rate(state.train_step - 1))
            if measure and hooks.diagnose is not None:
                record.update(hooks.diagnose(state))
            if (log or measure) and hooks.on_metrics is not None:
                hooks.on_metrics(record)
            if save and hooks.on_checkpoint is not None:
                hooks.on_checkpoint(state, record)
            if stop:
                break
            meter = _Meter()
    return state


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


def _record(meter: _Meter, state: Counted, plan: LoopPlan, rate: float) -> Metrics:
    elapsed = time.perf_counter() - meter.started
    record: Metrics = {"train_step": state.train_step}
    record.update({f"train/{name}": float(total) / meter.counts[name] for name, total in meter.sums.items()})
    record["train/learning_rate"] = rate
    record[f"train/{plan.samples}_per_s"] = meter.steps * plan.batch_size / elapsed
    record["train/data_wait_fraction"] = meter.wait_s / elapsed
    record["train/seconds"] = state.seconds
    return record
