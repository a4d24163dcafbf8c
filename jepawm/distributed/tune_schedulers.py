"""Ray Tune's schedulers, made from the section `tune.scheduler`."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.schedulers.pb2 import PB2

from jepawm.config.tune import ASHAConfig, MedianConfig, PB2Config, PBTConfig, TuneConfig
from jepawm.tuning.space import Choice, IntRange, LogUniform, Parameter, Space, Uniform
from jepawm.tuning.trial import TrialRecord

# Names of what a trial reports: a scheduler compares `VALUE` at `STEP`.
VALUE, STEP = "value", "train_step"
# Where the settings of a trial say which trial it takes weights from.
TAKEN_FROM = "taken_from"


def build_scheduler(settings: TuneConfig, space: Space, num_train_steps: int) -> TrialScheduler:
    """The scheduler of a sweep.

    Args:
        settings: Of the sweep.
        space: What a population changes.
        num_train_steps: Of a trial.
    """
    kind = settings.scheduler
    judged: dict[str, Any] = {"time_attr": STEP, "metric": VALUE, "mode": settings.rung_metric[1]}
    if isinstance(kind, ASHAConfig):
        return AsyncHyperBandScheduler(
            **judged,
            max_t=num_train_steps,
            grace_period=kind.first_rung,
            reduction_factor=kind.reduction_factor,
        )
    if isinstance(kind, MedianConfig):
        return MedianStoppingRule(
            **judged,
            grace_period=(kind.num_grace_rungs + 1) * kind.every,
            min_samples_required=kind.min_trials,
            # Trials never pause for each other: a pause would cost a start.
            min_time_slice=float("inf"),
        )
    if isinstance(kind, PBTConfig):
        return _PBT(
            **judged,
            perturbation_interval=kind.every,
            hyperparam_mutations=domains(space),
            quantile_fraction=kind.quantile,
            resample_probability=kind.resample_probability,
            # Ray multiplies beyond the ends of a range.
            custom_explore_fn=space.clip,
            log_config=False,
        )
    if isinstance(kind, PB2Config):
        return _PB2(
            **judged,
            perturbation_interval=kind.every,
            hyperparam_bounds={key: list(parameter.ends) for key, parameter in space.parameters.items()},
            quantile_fraction=kind.quantile,
            custom_explore_fn=space.clip,
            log_config=False,
        )
    return FIFOScheduler()


def domains(space: Space) -> dict[str, Any]:
    """Ray Tune's domains of a space without conditions, by key."""
    return {key: _domain(parameter) for key, parameter in space.parameters.items()}


def _domain(parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        return list(parameter.options)
    if isinstance(parameter, IntRange):
        return [*range(parameter.low, parameter.high + 1, parameter.step)]
    assert isinstance(parameter, Uniform | LogUniform)
    draw = tune.loguniform if isinstance(parameter, LogUniform) else tune.uniform
    return draw(parameter.low, parameter.high)


def replay(scheduler: TrialScheduler, records: Sequence[TrialRecord]) -> None:
    """Tells a new scheduler what trials of an earlier command have shown at their rungs.

    Args:
        scheduler: One that stops trials; it has seen none yet.
        records: Trials that are over.
    """
    for record in records:
        if not record.rungs:
            continue
        past = Trial("past", stub=True, trial_id=f"past-{record.number}")
        scheduler.on_trial_add(None, past)
        results = [{STEP: rung.train_step, VALUE: rung.value} for rung in record.rungs]
        for result in results:
            scheduler.on_trial_result(None, past, result)
        scheduler.on_trial_complete(None, past, results[-1])


class _Named:
    """A trial that takes over settings keeps its own number, and learns whose checkpoint it is given."""

    _trial_state: Mapping[Trial, Any]

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        changed, operations = super()._get_new_config(trial, trial_to_clone)  # type: ignore[misc]
        taken = {
            "number": trial_to_clone.config["number"],
            "train_step": self._trial_state[trial_to_clone].last_result[STEP],
            "mark": uuid.uuid4().hex,
        }
        return {**changed, "number": trial.config["number"], TAKEN_FROM: taken}, operations


class _PBT(_Named, PopulationBasedTraining):
    """Population-based training."""


class _PB2(_Named, PB2):
    """Population-based bandits."""
