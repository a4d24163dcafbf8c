"""Which point comes next. A search keeps nothing: its answer follows from the trials before, so a sweep can go on."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jepawm.config.tagged import import_object
from jepawm.config.tune import GridSearchConfig, OptunaSearchConfig, RandomSearchConfig, TuneConfig
from jepawm.errors import ConfigError, MissingDependencyError
from jepawm.seeding import stream_seed
from jepawm.tuning.space import Choice, IntRange, LogUniform, Parameter, Point, Space, Uniform
from jepawm.tuning.trial import TrialRecord

if TYPE_CHECKING:
    import optuna

# Trials of a sweep that says nothing of their number.
NUM_TRIALS = 16


class Search(Protocol):
    """Chooses points."""

    num_trials: int
    """Trials in all."""

    def ask(self, number: int, over: Sequence[TrialRecord], running: Sequence[Point]) -> Point:
        """The point of a trial.

        Args:
            number: Of the trial, counted from 0 and below `num_trials`.
            over: Trials that are over.
            running: Points of trials that are not.
        """
        ...

    def points_known_before(self) -> list[Point]:
        """Points that do not depend on what trials find; empty where all do."""
        ...


def build_search(settings: TuneConfig, space: Space, base: Mapping[str, Any]) -> Search:
    """The search of a sweep.

    Args:
        settings: Of the sweep.
        space: What is tried.
        base: The run's settings by dotted key.

    Raises:
        ConfigError: A grid over ranges, or of more points than trials.
        MissingDependencyError: Optuna is not installed.
    """
    kind = import_object(settings.search.implementation, "tune.search.name")
    search: Search = kind(settings, space, base)
    return search


class RandomSearch:
    """Each point is drawn by itself, from (sweep seed, number of the trial)."""

    def __init__(self, settings: TuneConfig, space: Space, base: Mapping[str, Any]) -> None:
        assert isinstance(settings.search, RandomSearchConfig)
        self._seed, self._space, self._base = settings.seed, space, base
        self.num_trials = settings.num_trials or NUM_TRIALS

    def ask(self, number: int, over: Sequence[TrialRecord], running: Sequence[Point]) -> Point:
        """The point of that number."""
        generator = np.random.default_rng(stream_seed(self._seed, "tune point", number))
        return self._space.drawn(generator, self._base)

    def points_known_before(self) -> list[Point]:
        """All of them."""
        return [self.ask(number, (), ()) for number in range(self.num_trials)]


class GridSearch:
    """Every combination of choices, in the order of the space: the last parameter changes first."""

    def __init__(self, settings: TuneConfig, space: Space, base: Mapping[str, Any]) -> None:
        assert isinstance(settings.search, GridSearchConfig)
        self._points = list(space.all_points(base, settings.search.points_per_range))
        self.num_trials = len(self._points)
        if settings.num_trials is not None and settings.num_trials != self.num_trials:
            raise ConfigError(
                f"the grid of '{space.name}' has {self.num_trials} points, and tune.num_trials is "
                f"{settings.num_trials}; leave tune.num_trials out, or take --tune.search.name random"
            )

    def ask(self, number: int, over: Sequence[TrialRecord], running: Sequence[Point]) -> Point:
        """The point of that number."""
        return self._points[number]

    def points_known_before(self) -> list[Point]:
        """All of them."""
        return list(self._points)


class OptunaSearch:
    """The tree-structured Parzen estimator, for one metric or two.

    The study is made anew from the records for each point, and the sampler is seeded with the number of the trial. A
    trial that the scheduler ended counts as worse than all that finished; the values of its rungs order those.

    Reference: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; Ozaki et al. 2022, Multiobjective
        Tree-Structured Parzen Estimator.
    """

    def __init__(self, settings: TuneConfig, space: Space, base: Mapping[str, Any]) -> None:
        assert isinstance(settings.search, OptunaSearchConfig)
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "tune.search.name 'optuna' needs Optuna: pip install 'jepawm[search]', or take random"
            ) from error
        self._settings, self._space, self._base = settings, space, base
        self._num_random = settings.search.num_random
        self.num_trials = settings.num_trials or NUM_TRIALS

    def ask(self, number: int, over: Sequence[TrialRecord], running: Sequence[Point]) -> Point:
        """Where a good point is likely, by what the trials before have found."""
        study = self._study(number, over, running)
        trial = study.ask()
        return self._space.point(lambda key, parameter: _suggest(trial, key, parameter), self._base)

    def points_known_before(self) -> list[Point]:
        """None of them."""
        return []

    def _study(self, number: int, over: Sequence[TrialRecord], running: Sequence[Point]) -> "optuna.Study":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # That it counts trials which run is called experimental.
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(
                seed=stream_seed(self._settings.seed, "tune point", number) % 2**32,
                n_startup_trials=self._num_random,
                constant_liar=True,
            )
        directions = ["maximize" if mode == "max" else "minimize" for _, mode in self._settings.metrics]
        study = optuna.create_study(directions=directions, sampler=sampler)
        for record in over:
            study.add_trial(self._as_optuna(record))
        for point in running:
            study.add_trial(self._frozen(point, state=optuna.trial.TrialState.RUNNING))
        return study

    def _as_optuna(self, record: TrialRecord) -> "optuna.trial.FrozenTrial":
        from optuna.trial import TrialState

        values = [record.value(metric) for metric, _ in self._settings.metrics]
        if record.status == "finished" and None not in values:
            return self._frozen(record.point, state=TrialState.COMPLETE, values=values)
        if record.status == "stopped":
            same = self._settings.rung_metric == self._settings.metrics[0]
            rungs = {rung.train_step: rung.value for rung in record.rungs if math.isfinite(rung.value)} if same else {}
            return self._frozen(record.point, state=TrialState.PRUNED, intermediate_values=rungs)
        return self._frozen(record.point, state=TrialState.FAIL)

    def _frozen(self, point: Point, **told: Any) -> "optuna.trial.FrozenTrial":
        import optuna

        known = {key: self._space.parameters[key] for key in point}
        return optuna.trial.create_trial(
            params={key: _for_optuna(known[key], value) for key, value in point.items()},
            distributions={key: _distribution(parameter) for key, parameter in known.items()},
            **told,
        )


def _suggest(trial: "optuna.Trial", key: str, parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        labels = [_label(option) for option in parameter.options]
        return parameter.options[labels.index(trial.suggest_categorical(key, labels))]
    if isinstance(parameter, IntRange):
        return trial.suggest_int(key, parameter.low, parameter.high, step=parameter.step)
    assert isinstance(parameter, Uniform | LogUniform)
    return trial.suggest_float(key, parameter.low, parameter.high, log=isinstance(parameter, LogUniform))


def _distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    from optuna import distributions

    if isinstance(parameter, Choice):
        return distributions.CategoricalDistribution([_label(option) for option in parameter.options])
    if isinstance(parameter, IntRange):
        return distributions.IntDistribution(parameter.low, parameter.high, step=parameter.step)
    assert isinstance(parameter, Uniform | LogUniform)
    return distributions.FloatDistribution(parameter.low, parameter.high, log=isinstance(parameter, LogUniform))


def _for_optuna(parameter: Parameter, value: Any) -> Any:
    return _label(value) if isinstance(parameter, Choice) else value


def _label(option: Any) -> str:
    """A choice as Optuna keeps it; a tuple and the list that JSON made of it have the same one."""
    return json.dumps(option)
