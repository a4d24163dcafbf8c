"""A study: encoders x environments x shares of the training episodes x seeds, and what is measured of each trial.

It is a YAML file, for it names many runs; `read_study` reads it and refuses what no study has. Settings of a run stand
in it as they do in a recipe, nested or by dotted key.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import yaml

from jepawm.config.checks import positive
from jepawm.config.head import HeadConfig
from jepawm.config.yaml_io import flatten, from_dict, unflatten
from jepawm.errors import ConfigError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class StudyEnvironmentConfig:
    """An environment and its episodes: what all trials in it have in common."""

    section: ClassVar[str] = "environments"

    about: str = ""
    """A line for the report."""
    recipe: str | None = None
    """A recipe in place of the study's."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a run over the study's own: `env`, `data`, `evaluation` and others."""


@dataclass(frozen=True)
class StudyEncoderConfig:
    """An encoder, or another way to make a state space that is compared with the others."""

    section: ClassVar[str] = "encoders"

    about: str = ""
    """A line for the report."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a run over those of study and environment: `model.encoder` and whatever else the encoder needs."""
    weights: str | tuple[str, ...] | None = None
    """Its weights: a file, or a folder such as RUN/encoder, as `weights_key` takes it. A list has one for each seed, in
    the order of the seeds: the intervals over seeds then speak of pretrainings, not of a single one. None: as
    `settings` say."""
    weights_key: str = "model.encoder.weights"
    """Setting of a run that `weights` are put into; `model.encoder.base.weights` below a compact encoder."""
    needs_weights: bool = False
    """The encoder has a place for weights that are given on the command line (`--encoders.LABEL.weights RUN/encoder`);
    without them it is left out, and report and console say so."""
    random_weights: bool = False
    """The encoder is frozen with random weights, drawn anew from each seed and kept in a file of the study."""
    environments: tuple[str, ...] = ()
    """Labels of the environments it is tried in; empty: all."""
    fractions: tuple[float, ...] = ()
    """Its shares of the training episodes in place of the study's."""
    seeds: tuple[int, ...] = ()
    """Its seeds in place of the study's."""
    only_in_ablations: bool = False
    """It is compared with the other arms of its ablations alone, not ranked among the encoders."""


@dataclass(frozen=True)
class StudyAblationConfig:
    """Encoders that differ in one choice: masking, resolution, layer, tokenization. The first is the reference."""

    section: ClassVar[str] = "ablations"

    arms: tuple[str, ...] = ()
    """Labels of encoders."""
    about: str = ""
    """A line for the report."""

    def __post_init__(self) -> None:
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"ablations: arms must name at least two different encoders, found {list(self.arms)}")


@dataclass(frozen=True)
class StudyTransferConfig:
    """A trained model is played in another environment, or in another look of its own."""

    section: ClassVar[str] = "transfers"

    trained_on: str = ""
    """Label of an environment of the study."""
    about: str = ""
    """A line for the report."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the evaluation over those of the trial: `env.id`, `env.vary`, `env.options`, `evaluation`."""


@dataclass(frozen=True)
class StudyMeasuresConfig:
    """What is measured of each trial beside what an evaluation finds."""

    section: ClassVar[str] = "measures"

    probes: bool = True
    """Linear probes of the simulator's state, on encoder features and on the latents that plans are made in."""
    temporal: bool = True
    """Linear probes of how the state changes, from one frame and from two; of video encoders also from clips."""
    cost: bool = True
    """Time and memory of encoding, beside what training and planning took."""
    num_probe_frames: int = 1500
    """Frames of training episodes that probes are fitted to, at most."""
    num_test_frames: int = 600
    """Frames of held-out episodes that they are tested on, at most."""
    reconstruction_steps: int = 0
    """Updates of a decoder that draws frames from the frozen latents, the same for each encoder; 0: none is trained."""
    reconstruction_batch_size: int = 64
    """Frames of an update."""
    reconstruction_learning_rate: float = 5e-4
    """Peak learning rate of the decoder; a small decoder needs a higher rate than the published ones."""
    reconstruction_episodes: int | None = 64
    """Training episodes that it sees; None: all."""
    reconstruction_seeds: int = 1
    """First seeds of an encoder for which it is trained."""
    decoder: HeadConfig = field(default_factory=HeadConfig)
    """The decoder."""

    def __post_init__(self) -> None:
        positive(self, "num_probe_frames", "num_test_frames")
        positive(self, "reconstruction_batch_size", "reconstruction_learning_rate")
        positive(self, "reconstruction_episodes", "reconstruction_seeds")
        if self.reconstruction_steps < 0:
            raise ConfigError(f"measures.reconstruction_steps must not be negative, found {self.reconstruction_steps}")


@dataclass(frozen=True)
class StudyTrialsConfig:
    """Where and how many at once: nothing that changes a trial."""

    section: ClassVar[str] = "trials"

    cpus: int = 1
    """CPUs, and threads, of a trial."""
    gpus: float | None = None
    """GPUs of a trial; None: 1 where `device` is cuda, or auto and the cluster has any, else 0."""
    max_concurrent: int | None = None
    """Trials at once, at most; None: as many as there is room for."""
    max_deaths: int = 2
    """Times the process of a trial may die; the trial goes on from its last checkpoint."""

    def __post_init__(self) -> None:
        positive(self, "cpus", "max_concurrent")
        if self.max_deaths < 0 or (self.gpus is not None and self.gpus < 0):
            raise ConfigError(
                f"trials: gpus and max_deaths must not be negative, found {self.gpus} and {self.max_deaths}"
            )


@dataclass(frozen=True)
class UnlabelledStudyConfig:
    """What a study has beside the entries that have labels.

    Attributes:
        name: Names its folder.
        about: The question it asks.
        recipe: What all runs begin with.
        settings: Settings of all runs over the recipe.
        fractions: Shares of the training episodes, in (0, 1]; a smaller share is a part of a larger one.
        seeds: Of the trainings.
        data_seed: Of the episodes, which all seeds share.
        only_encoders: Labels of the encoders that are tried and reported; empty: all.
        measures: What is measured.
        trials: How they run.
    """

    section: ClassVar[str] = "study"

    name: str = "study"
    about: str = ""
    recipe: str = "demo"
    settings: dict[str, Any] = field(default_factory=dict)
    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0, 1, 2)
    data_seed: int = 0
    only_encoders: tuple[str, ...] = ()
    measures: StudyMeasuresConfig = field(default_factory=StudyMeasuresConfig)
    trials: StudyTrialsConfig = field(default_factory=StudyTrialsConfig)


@dataclass(frozen=True)
class StudyConfig(UnlabelledStudyConfig):
    """A study.

    Attributes:
        environments: By label.
        encoders: By label.
        ablations: Encoders that differ in one choice, by label.
        transfers: Models that are played elsewhere, by label.
    """

    environments: Mapping[str, StudyEnvironmentConfig] = field(default_factory=dict)
    encoders: Mapping[str, StudyEncoderConfig] = field(default_factory=dict)
    ablations: Mapping[str, StudyAblationConfig] = field(default_factory=dict)
    transfers: Mapping[str, StudyTransferConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise ConfigError(f"name must be letters, digits, '_', '-' and '.', for it names a folder: '{self.name}'")
        for what, found in (("environments", self.environments), ("encoders", self.encoders)):
            if not found:
                raise ConfigError(f"{what} must name at least one")
        _check_grid("the study", self.fractions, self.seeds)
        for label, encoder in self.encoders.items():
            _check_grid(f"encoders.{label}", encoder.fractions or self.fractions, self.seeds_of(label))
            _known(f"encoders.{label}.environments", encoder.environments, self.environments)
            if encoder.random_weights and (encoder.weights is not None or encoder.needs_weights):
                raise ConfigError(f"encoders.{label}: random_weights and weights that are given exclude each other")
            _check_weights(label, encoder.weights, self.seeds_of(label))
        _known("only_encoders", self.only_encoders, self.encoders)
        for label, ablation in self.ablations.items():
            _known(f"ablations.{label}.arms", ablation.arms, self.encoders)
        for label, transfer in self.transfers.items():
            _known(f"transfers.{label}.trained_on", (transfer.trained_on,), self.environments)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Labels of the encoders that the study asks about, in the file's order."""
        return tuple(label for label in self.encoders if not self.only_encoders or label in self.only_encoders)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Labels of the wanted encoders whose weights were not given."""
        encoders = {label: self.encoders[label] for label in self.wanted}
        return tuple(label for label, each in encoders.items() if each.needs_weights and each.weights is None)

    @property
    def wanted_ablations(self) -> tuple[str, ...]:
        """Labels of the ablations with at least two wanted arms, one of which is the reference."""
        wanted = {label: [arm for arm in each.arms if arm in self.wanted] for label, each in self.ablations.items()}
        return tuple(
            label for label, arms in wanted.items() if len(arms) > 1 and arms[0] == self.ablations[label].arms[0]
        )

    def seeds_of(self, label: str) -> tuple[int, ...]:
        """The seeds that an encoder is tried with."""
        return self.encoders[label].seeds or self.seeds

    def weights_of(self, label: str, seed: int) -> str | None:
        """What an encoder is given as weights in the trials of a seed; None: as its settings say."""
        weights = self.encoders[label].weights
        return weights[self.seeds_of(label).index(seed)] if isinstance(weights, tuple) else weights


def _check_grid(where: str, fractions: tuple[float, ...], seeds: tuple[int, ...]) -> None:
    if not fractions or any(not 0 < each <= 1 for each in fractions) or list(fractions) != sorted(set(fractions)):
        raise ConfigError(
            f"fractions of {where} must be ascending shares of the training episodes in (0, 1], e.g. [0.1, 1.0]; found "
            f"{list(fractions)}"
        )
    if not seeds or any(seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds of {where} must be different whole numbers from 0 on, found {list(seeds)}")


def _check_weights(label: str, weights: str | tuple[str, ...] | None, seeds: tuple[int, ...]) -> None:
    if isinstance(weights, tuple) and len(weights) != len(seeds):
        raise ConfigError(
            f"encoders.{label}.weights lists {len(weights)} for {len(seeds)} seeds {list(seeds)}; name one for each "
            "seed, or a single one for all of them"
        )
    if isinstance(weights, tuple) and len(set(weights)) < len(weights):
        raise ConfigError(f"encoders.{label}.weights names a file twice: {list(weights)}; name another for each seed")


def _known(where: str, labels: tuple[str, ...], known: Mapping[str, object]) -> None:
    for label in labels:
        if label not in known:
            raise ConfigError(f"{where}: unknown '{label}'{did_you_mean(label, known)}")


# -- the file --------------------------------------------------------------------------------------------------------

_LABELLED: dict[str, type] = {
    "environments": StudyEnvironmentConfig,
    "encoders": StudyEncoderConfig,
    "ablations": StudyAblationConfig,
    "transfers": StudyTransferConfig,
}
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_study(path: str, changes: Mapping[str, Any] | None = None) -> StudyConfig:
    """Reads a study.

    Args:
        path: The YAML file.
        changes: Values by dotted key that stand in place of the file's, e.g. `encoders.vjepa.weights`.

    Raises:
        ConfigError: No such file, an unknown key or label, or values that do not go together.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping with environments and encoders, found {type(data).__name__}")
    for key, value in (changes or {}).items():
        _change(data, key, value, path)
    return study_from_dict(data, path)


def study_from_dict(data: Mapping[str, Any], where: str) -> StudyConfig:
    """A study from plain data, as its file holds it.

    Raises:
        ConfigError: See `read_study`.
    """
    own = dict(data)
    labelled: dict[str, Any] = {}
    for name, kind in _LABELLED.items():
        entries = own.pop(name, None) or {}
        if not isinstance(entries, dict):
            raise ConfigError(f"{where}: '{name}' must map labels to settings, found {type(entries).__name__}")
        labelled[name] = {
            label: _entry(kind, entry, label, f"{where}, {name}.{label}") for label, entry in entries.items()
        }
    try:
        _check_keys(StudyConfig, own, where)
        rest = from_dict(UnlabelledStudyConfig, own, where)
        values = {item.name: getattr(rest, item.name) for item in fields(rest)}
        return StudyConfig(**{**values, "settings": dotted(values["settings"])}, **labelled)
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run, nested or with dots in their keys, as a recipe nests them."""
    return unflatten(flatten(dict(settings)))


def _entry(kind: type[T], data: Any, label: Any, where: str) -> T:
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise ConfigError(f"{where}: a label must be letters, digits, '_' and '-', found {label!r}")
    entry = {} if data is None else data
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} must be a mapping, found {entry!r}")
    if isinstance(entry.get("settings"), dict):
        entry = {**entry, "settings": dotted(entry["settings"])}
    return from_dict(kind, entry, where)


def _check_keys(kind: type, data: Mapping[str, Any], where: str) -> None:
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{did_you_mean(str(key), known)}")


def _change(data: dict[str, Any], key: str, value: Any, path: str) -> None:
    """Puts one value in place; a label must be there already, so that a misspelt one is no new encoder."""
    first, _, rest = key.partition(".")
    if first in _LABELLED:
        label, _, rest = rest.partition(".")
        entries = data.get(first) or {}
        if label not in entries:
            raise ConfigError(f"--{key}: {path} has no {first}.{label}{did_you_mean(label, entries)}")
        place = entries[label] = dict(entries[label] or {})
    else:
        place, rest = data, key
    *sections, last = rest.split(".")
    for number, section in enumerate(sections):
        if section == "settings":
            # Inside, settings may be nested or dotted.
            own = flatten(dict(place.get(section) or {}))
            place[section] = {**own, ".".join([*sections[number + 1 :], last]): value}
            return
        place[section] = dict(place.get(section) or {})
        place = place[section]
    place[last] = value
