"""The settings of `jepawm tune`: what trials are judged by, how points are chosen, and which trials end early."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import positive
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError

Mode = Literal["max", "min"]


# -- which points ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchConfig(TaggedConfig):
    """How the points of a search space are chosen: what every kind has."""

    section: ClassVar[str] = "tune.search"
    default_kind: ClassVar[str] = "random"
    kinds: ClassVar[dict[str, str]] = {
        "random": "jepawm.config.tune:RandomSearchConfig",
        "grid": "jepawm.config.tune:GridSearchConfig",
        "optuna": "jepawm.config.tune:OptunaSearchConfig",
    }

    name: str = ""
    """`random`: each point is drawn by itself; `grid`: every combination of choices; `optuna`: the tree-structured
    Parzen estimator, which draws near the points that did well, also for two metrics."""


@dataclass(frozen=True)
class RandomSearchConfig(SearchConfig):
    """Each point is drawn by itself."""

    implementation: ClassVar[str] = "jepawm.tuning.search:RandomSearch"

    name: str = "random"


@dataclass(frozen=True)
class GridSearchConfig(SearchConfig):
    """Every combination of choices."""

    implementation: ClassVar[str] = "jepawm.tuning.search:GridSearch"

    name: str = "grid"
    points_per_range: int | None = None
    """Values of a range that the grid has, evenly spaced with both ends (in the logarithm for a logarithmic range);
    None: a space with ranges is refused."""

    def __post_init__(self) -> None:
        if self.points_per_range is not None and self.points_per_range < 2:
            raise ConfigError(
                f"tune.search.points_per_range must be at least 2, both ends of a range, found {self.points_per_range}"
            )


@dataclass(frozen=True)
class OptunaSearchConfig(SearchConfig):
    """The tree-structured Parzen estimator of Optuna."""

    implementation: ClassVar[str] = "jepawm.tuning.search:OptunaSearch"

    name: str = "optuna"
    num_random: int = 8
    """First points, which are drawn at random."""

    def __post_init__(self) -> None:
        positive(self, "num_random")


# -- which trials end early ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SchedulerConfig(TaggedConfig):
    """Which trials end early, or go on with the weights of others: what every kind has."""

    section: ClassVar[str] = "tune.scheduler"
    default_kind: ClassVar[str] = "none"
    kinds: ClassVar[dict[str, str]] = {
        "none": "jepawm.config.tune:NoSchedulerConfig",
        "asha": "jepawm.config.tune:ASHAConfig",
        "median": "jepawm.config.tune:MedianConfig",
        "pbt": "jepawm.config.tune:PBTConfig",
        "pb2": "jepawm.config.tune:PB2Config",
    }

    name: str = ""
    """`none`: every trial is trained to its end; `asha`: asynchronous successive halving; `median`: trials below the
    median end; `pbt`: population-based training; `pb2`: the same with a Gaussian process."""

    def rungs(self, num_train_steps: int) -> tuple[int, ...]:
        """Train steps before the last one at which a trial is compared with the others."""
        return ()

    @property
    def interval(self) -> int | None:
        """Train steps between two checkpoints, so that there is one at every rung; None: no rungs."""
        return None

    @property
    def moves_checkpoints(self) -> bool:
        """Whether a trial may go on from the checkpoint of another one."""
        return False


@dataclass(frozen=True)
class NoSchedulerConfig(SchedulerConfig):
    """Every trial is trained to its end."""

    name: str = "none"


@dataclass(frozen=True)
class RungConfig(SchedulerConfig):
    """What every kind with rungs has."""

    metric: str | None = None
    """What trials are compared by at a rung, as in `metrics.jsonl` (`validation/error_1`) or as `tune.metric` names it;
    what only an evaluation knows is measured by evaluating the checkpoint. None: `tune.metric`."""
    mode: Mode | None = None
    """Whether high or low values of `metric` are good; None: `tune.mode`. Give both, or none."""

    def __post_init__(self) -> None:
        if (self.metric is None) != (self.mode is None):
            raise ConfigError(
                "tune.scheduler.metric and tune.scheduler.mode belong together: give both, or leave both out for "
                f"tune.metric and tune.mode; found {self.metric!r} and {self.mode!r}"
            )


@dataclass(frozen=True)
class ASHAConfig(RungConfig):
    """Asynchronous successive halving: at each rung the best share of the trials goes on.

    Reference: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934.
    """

    name: str = "asha"
    first_rung: int = 500
    """Train steps before a trial may end; the next rungs are `reduction_factor` times as far, each."""
    reduction_factor: int = 3
    """One trial in so many goes on from a rung."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "first_rung")
        if self.reduction_factor < 2:
            raise ConfigError(f"tune.scheduler.reduction_factor must be at least 2, found {self.reduction_factor}")

    @property
    def interval(self) -> int | None:
        """The first rung divides the others."""
        return self.first_rung

    def rungs(self, num_train_steps: int) -> tuple[int, ...]:
        """`first_rung` times the powers of `reduction_factor`, below the last train step."""
        found, rung = [], self.first_rung
        while rung < num_train_steps:
            found.append(rung)
            rung *= self.reduction_factor
        return tuple(found)


@dataclass(frozen=True)
class EveryConfig(RungConfig):
    """What every kind with evenly spaced rungs has."""

    every: int = 500
    """Train steps between two rungs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "every")

    @property
    def interval(self) -> int | None:
        """`every`."""
        return self.every

    def rungs(self, num_train_steps: int) -> tuple[int, ...]:
        """The multiples of `every` below the last train step."""
        return tuple(range(self.every, num_train_steps, self.every))


@dataclass(frozen=True)
class MedianConfig(EveryConfig):
    """A trial ends where its best value is worse than the median of the other trials' running means.

    Reference: Golovin et al. 2017, Google Vizier: A Service for Black-Box Optimization.
    """

    name: str = "median"
    num_grace_rungs: int = 1
    """First rungs at which no trial ends."""
    min_trials: int = 3
    """Other trials that must have reached a rung before one ends there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_grace_rungs", "min_trials")


@dataclass(frozen=True)
class PopulationConfig(EveryConfig):
    """What both kinds of population-based training have."""

    quantile: float = 0.25
    """Share of the trials that take over weights and settings at a rung, and share of those that they take from."""

    @property
    def moves_checkpoints(self) -> bool:
        """They do."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.quantile <= 0.5:
            raise ConfigError(f"tune.scheduler.quantile must lie in (0, 0.5], found {self.quantile}")


@dataclass(frozen=True)
class PBTConfig(PopulationConfig):
    """Population-based training: at a rung the worst trials take weights and settings of the best, and change them.

    Reference: Jaderberg et al. 2017, Population Based Training of Neural Networks, arXiv 1711.09846.
    """

    name: str = "pbt"
    resample_probability: float = 0.25
    """How often a setting is drawn anew rather than multiplied by 0.8 or 1.2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.resample_probability <= 1:
            raise ConfigError(
                f"tune.scheduler.resample_probability must lie in [0, 1], found {self.resample_probability}"
            )


@dataclass(frozen=True)
class PB2Config(PopulationConfig):
    """Population-based bandits: as `pbt`, but a Gaussian process says which settings to try next.

    Reference: Parker-Holder et al. 2020, Provably Efficient Online Hyperparameter Optimization with Population-Based
    Bandits, arXiv 2002.02518.
    """

    name: str = "pb2"


# -- the sweep -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TuneConfig:
    """A sweep: trials, each a run with other settings, and what comes after them."""

    section: ClassVar[str] = "tune"

    metric: str = "success_rate"
    """What a finished trial is judged by: `success_rate` of the first protocol, `decision_ms` (median wall time of one
    plan), another number of the evaluation (`eval/open_loop/mean_distance`), or one of the last line of `metrics.jsonl`
    (`validation/error_1`)."""
    mode: Mode = "max"
    """Whether high or low values of `metric` are good."""
    second_metric: str | None = None
    """Another metric that trials are judged by beside the first; the report shows the trials that no other one beats in
    both. None: the first alone."""
    second_mode: Mode = "min"
    """Whether high or low values of `second_metric` are good."""
    num_trials: int | None = None
    """Trials in all; more of them go on with a sweep that is done. None: 16, and of a grid all."""
    seed: int = 0
    """Of the points that are drawn; trials have the run's seed."""
    max_concurrent: int | None = None
    """Trials at once, at most; None: as many as there is room for."""
    cpus_per_trial: int = 1
    """CPUs, and threads, of a trial; with several training workers those of its evaluation."""
    gpus_per_trial: float | None = None
    """GPUs of a trial; None: 1 where `device` is cuda, or auto and the cluster has any, else 0."""
    max_deaths: int = 2
    """Times the process of a trial may die; the trial goes on from its last checkpoint."""
    num_final: int = 3
    """Best trials that are evaluated again on fresh episodes; 0: none."""
    final_episodes: int = 200
    """Fresh episodes."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        positive(self, "num_trials", "max_concurrent", "cpus_per_trial", "final_episodes")
        for name in ("seed", "max_deaths", "num_final"):
            if getattr(self, name) < 0:
                raise ConfigError(f"tune.{name} must not be negative, found {getattr(self, name)}")
        if self.gpus_per_trial is not None and (
            self.gpus_per_trial < 0 or (self.gpus_per_trial > 1 and self.gpus_per_trial % 1)
        ):
            raise ConfigError(
                f"tune.gpus_per_trial must be a whole number, or a share below 1 of one GPU, found "
                f"{self.gpus_per_trial:g}"
            )
        if self.second_metric is not None and self.second_metric == self.metric:
            raise ConfigError(f"tune.second_metric is tune.metric ({self.metric}); name another one, or leave it out")
        if self.second_metric is not None and self.scheduler.name != "none":
            raise ConfigError(
                f"tune.scheduler.name '{self.scheduler.name}' compares trials by one metric; with tune.second_metric "
                "it must be none"
            )
        if self.scheduler.moves_checkpoints and self.search.name != "random":
            raise ConfigError(
                f"tune.scheduler.name '{self.scheduler.name}' changes the points itself; tune.search.name must be "
                f"random, found '{self.search.name}'"
            )

    @property
    def metrics(self) -> tuple[tuple[str, Mode], ...]:
        """What trials are judged by, each with the direction that is good."""
        first: tuple[tuple[str, Mode], ...] = ((self.metric, self.mode),)
        return first if self.second_metric is None else (*first, (self.second_metric, self.second_mode))

    @property
    def rung_metric(self) -> tuple[str, Mode]:
        """What trials are compared by at a rung, and the direction that is good."""
        metric, mode = getattr(self.scheduler, "metric", None), getattr(self.scheduler, "mode", None)
        return (self.metric, self.mode) if metric is None or mode is None else (metric, mode)
