"""The trials of a study: its cells as runs, what is done of each, and what is refused before anything starts."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from jepawm.checkpoints.model_folder import model_dir
from jepawm.config import RunConfig, to_dict
from jepawm.config.compact import frozen_encoder
from jepawm.config.encoder import EncoderConfig, VideoEncoderConfig, shaping_settings, without_weights
from jepawm.config.places import is_uri
from jepawm.config.study import StudyConfig, StudyMeasuresConfig
from jepawm.config.yaml_io import flatten, resolve
from jepawm.encoders import build_encoder
from jepawm.errors import ConfigError, JepawmError
from jepawm.files import atomic_file
from jepawm.runs.episodes import dataset_path, find_dataset
from jepawm.runs.preflight import check_run
from jepawm.runs.preflight.environment import check_environment
from jepawm.runs.study_trial import transfer_config
from jepawm.runs.trial import as_trial
from jepawm.seeding import stream_seed
from jepawm.study.cells import Cell, cell_layers, cells, identity, weights_digest
from jepawm.study.records import Part, StudyFolder, StudyPlan, TrialFolder, TrialJob

# Of a study's folder: files of random weights.
_RANDOM_FOLDER = "encoders"


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of a study.

    Attributes:
        cells: Where it stands in the grid; more than one where two labels mean the same settings.
        config: Its run, with its own source of episodes.
        identity: See `jepawm.study.cells.identity`.
        recipe: Name of the recipe.
        parts: What is measured beside the run's evaluation.
        random_weights: Where weights go that are drawn from the seed; empty where none are.
    """

    cells: tuple[Cell, ...]
    config: RunConfig
    identity: str
    recipe: str
    parts: tuple[Part, ...]
    random_weights: str = ""

    @property
    def name(self) -> str:
        """Of the first of its cells."""
        return self.cells[0].name

    def folder(self, study: StudyFolder) -> TrialFolder:
        """Its files."""
        return study.trial(self.identity, self.name)

    def dataset_config(self, study: StudyConfig) -> RunConfig:
        """A run whose episodes are those of the trial: they depend on the study's seed of data, not on the trial's."""
        return replace(self.config, seed=study.data_seed)

    def job(self, study: StudyConfig, folder: StudyFolder) -> TrialJob:
        """What the trial's process is told: episodes by their path, which exist by then."""
        path = dataset_path(self.dataset_config(study))
        config = as_trial(self.config, self.folder(folder).path)
        config = replace(config, data=replace(config.data, source="dataset", path=path))
        return TrialJob(self.identity, self.name, to_dict(config), self.recipe, self.parts)

    @property
    def labels(self) -> dict[str, str]:
        """Where it stands in the grid, for people; two labels of the same settings stand side by side."""
        places = {
            "environment": [cell.environment for cell in self.cells],
            "encoder": [cell.encoder for cell in self.cells],
            "share": [f"{100 * cell.fraction:g} %" for cell in self.cells],
        }
        return {name: ", ".join(dict.fromkeys(labels)) for name, labels in places.items()}


def study_plan(trials: Sequence[PlannedTrial]) -> StudyPlan:
    """What the folder of a study keeps of its trials.

    Raises:
        ConfigError: Settings `tracking` that differ between trials; a study is one run at one tracker.
    """
    tracking = trials[0].config.tracking
    for trial in trials:
        if trial.config.tracking != tracking:
            raise ConfigError(
                f"{trial.name} has other settings `tracking` than {trials[0].name}, and a study is one run at one "
                "tracker; set them in the study's own `settings`"
            )
    return StudyPlan({trial.identity: trial.labels for trial in trials}, to_dict(tracking))


def planned_trials(study: StudyConfig, folder: StudyFolder) -> list[PlannedTrial]:
    """All trials of a study, in the order of `cells`.

    Args:
        study: The study.
        folder: Where random weights will lie.

    Raises:
        ConfigError: Settings that do not go together; the message names the cell.
    """
    found: dict[str, PlannedTrial] = {}
    digests = _Digests()
    for cell in cells(study):
        trial = _planned(study, cell, folder, digests)
        known = found.get(trial.identity)
        if known is None:
            found[trial.identity] = trial
        else:
            more = tuple(part for part in trial.parts if part not in known.parts)
            found[trial.identity] = replace(known, cells=(*known.cells, cell), parts=(*known.parts, *more))
    return list(found.values())


class _Digests:
    """What files and datasets hold; each is read once, however many cells name it."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of_files(self, source: str) -> str:
        """Of a file, or of the weights in a folder; see `weights_digest`."""
        if source not in self._known:
            self._known[source] = weights_digest(source)
        return self._known[source]

    def contents(self, config: RunConfig) -> dict[str, str]:
        """Of the files beside weights that a run reads, by the setting that names them.

        A dataset that is not there, or at a URI, is told apart by its path.
        """
        found = {}
        if config.evaluation.episodes is not None:
            found["evaluation.episodes"] = self.of_files(config.evaluation.episodes)
        if config.train.init_from is not None:
            found["train.init_from"] = self.of_files(model_dir(config.train.init_from))
        path = str(config.data.path)
        if config.data.source == "dataset" and not is_uri(path):
            key = f"dataset {path}"
            if key not in self._known:
                dataset = find_dataset(config)
                self._known[key] = path if dataset is None else dataset.fingerprint
            found["data.path"] = self._known[key]
        return found


def _planned(study: StudyConfig, cell: Cell, folder: StudyFolder, digests: _Digests) -> PlannedTrial:
    encoder = study.encoders[cell.encoder]
    random = ""
    if encoder.random_weights:
        # Any name will do to read the settings by; the file's own name follows from them.
        config = _resolved(study, cell, weights="unnamed")
        random = _random_weights_path(folder, config)
        config = _resolved(study, cell, weights=random)
        _check_frozen(cell, config)
    else:
        config = _resolved(study, cell, weights=study.weights_of(cell.encoder, cell.seed))
    sources = [f"random, seed {cell.seed}"] if random else [digests.of_files(each) for each in _weights_of(config)]
    which = identity(
        to_dict(config), weights=json.dumps(sources), data_seed=study.data_seed, contents=digests.contents(config)
    )
    recipe = study.environments[cell.environment].recipe or study.recipe
    return PlannedTrial((cell,), config, which, recipe, _parts(study, cell, config), random)


def _resolved(study: StudyConfig, cell: Cell, *, weights: str | None) -> RunConfig:
    try:
        return resolve(RunConfig, cell_layers(study, cell, weights=weights))[0]
    except ConfigError as error:
        raise ConfigError(f"{cell.name}: {error}") from error


def _weights_of(config: RunConfig) -> list[str]:
    """Every source of weights that the encoder names."""
    flat = flatten(to_dict(config.model.encoder))
    return [value for key, value in flat.items() if key.rpartition(".")[2] == "weights" and value is not None]


def _parts(study: StudyConfig, cell: Cell, config: RunConfig) -> tuple[Part, ...]:
    measures, parts = study.measures, []
    if measures.probes:
        parts.append(Part("probes", {"measures": _probe_settings(measures)}))
    if not cell.is_largest:
        return tuple(parts)
    if measures.probes:
        parts.append(Part("feature probes", {"measures": _probe_settings(measures)}))
    if measures.cost:
        parts.append(Part("cost"))
    if measures.reconstruction_steps and cell.is_early:
        whole = to_dict(measures)
        # For how many seeds it is trained changes nothing of each.
        names = [name for name in whole if name.startswith("reconstruction_") and name != "reconstruction_seeds"]
        parts.append(Part("reconstruction", {"measures": {name: whole[name] for name in (*names, "decoder")}}))
    for label, transfer in study.transfers.items():
        if transfer.trained_on == cell.environment:
            parts.append(Part(f"transfer {label}", {"settings": transfer.settings}))
    return tuple(parts)


def _probe_settings(measures: StudyMeasuresConfig) -> dict[str, Any]:
    return {name: getattr(measures, name) for name in ("temporal", "num_probe_frames", "num_test_frames")}


# -- what is refused -------------------------------------------------------------------------------------------------


def check_study(study: StudyConfig, trials: list[PlannedTrial]) -> None:
    """Refuses a study with a trial that cannot work, before Ray starts and before anything is collected.

    Raises:
        ConfigError: Says which cell and which setting.
        CheckpointError: Weights that are missing or another model's.
    """
    if not trials:
        raise ConfigError(
            f"study {study.name} has no trial: no weights were given for {', '.join(study.left_out)}; pass "
            f"--encoders.{study.left_out[0]}.weights RUN/encoder"
        )
    study_plan(trials)
    seen: set[str] = set()
    for trial in trials:
        config = trial.config
        # Trials that differ in their seed alone are checked once.
        kind = json.dumps(to_dict(replace(config, seed=0)), sort_keys=True)
        kind = kind.replace(trial.random_weights, "random") if trial.random_weights else kind
        if kind in seen:
            continue
        seen.add(kind)
        if config.env.id == "none":
            raise ConfigError(f"{trial.name}: env.id is 'none', and a study compares what models reach; set env.id")
        _check_whole(trial)
        with _named(trial.name), tempfile.TemporaryDirectory() as place:
            checked = trial
            if trial.random_weights:
                # The checks read weights, and nothing may be written to the study before they pass.
                checked = _planned(study, trial.cells[0], StudyFolder(place), _Digests())
                write_random_weights(checked)
            check_run(replace(checked.dataset_config(study), run_dir=None, local=True))
        for part in trial.parts:
            if part.name.startswith("transfer "):
                _check_transfer(trial, part)


class _named:
    """Puts the cell in front of an error's text."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, JepawmError):
            raise type(error)(f"{self._name}: {error}") from error


def _check_whole(trial: PlannedTrial) -> None:
    """Refuses settings of a run that end it early, or that trials have no use for."""
    if trial.config.max_gpu_hours is not None:
        raise ConfigError(
            f"{trial.name}: max_gpu_hours ends a run at a checkpoint, and a trial that it ends counts as failed; leave "
            "it out, and lower train.num_train_steps, seeds or fractions"
        )
    if trial.config.evaluation.every_num_train_steps is not None:
        raise ConfigError(
            f"{trial.name}: evaluation.every_num_train_steps evaluates while training goes on, and a study compares "
            "what the trained models reach: leave it out"
        )


def _check_transfer(trial: PlannedTrial, part: Part) -> None:
    """Refuses a transfer to an environment whose actions or proprio have other widths, or whose goals are recorded."""
    where = f"{trial.name}, {part.name}"
    config = transfer_config(trial.config, part.settings["settings"], where)
    if config.evaluation.takes_recordings:
        raise ConfigError(
            f"{where}: evaluation.goal_source '{config.evaluation.goal_source}' takes goals from held-out episodes, "
            "which belong to the environment of the training; take sampler, expert or random_actions"
        )
    own, other = check_environment(trial.config.env), check_environment(config.env)
    if own is None or other is None:
        # Costly to make here; the evaluation itself refuses what does not fit.
        return
    widths = {"actions": (own.action.dim, other.action.dim)}
    if trial.config.model.proprio.encoding != "none":
        widths["proprio"] = (own.proprio.dim, other.proprio.dim)
    for what, (trained, played) in widths.items():
        if trained != played:
            raise ConfigError(
                f"{where}: {trial.config.env.id} has {what} of {trained} numbers, {config.env.id} of {played}; a model "
                "can be played only where they are the same"
            )


# -- random weights --------------------------------------------------------------------------------------------------


def _check_frozen(cell: Cell, config: RunConfig) -> None:
    encoder = frozen_encoder(config.model.encoder)
    if encoder.trainable:
        raise ConfigError(
            f"{cell.name}: random_weights is for an encoder that stays random; set its `trainable` to false in the "
            "settings, or leave random_weights out for one that trains"
        )


def _random_weights_path(folder: StudyFolder, config: RunConfig) -> str:
    encoder = frozen_encoder(config.model.encoder)
    facts = json.dumps([shaping_settings(encoder), config.env.image_size, config.seed], sort_keys=True)
    ending = "pt" if isinstance(encoder, VideoEncoderConfig) else "safetensors"
    name = f"{encoder.name}-random-seed{config.seed}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}.{ending}"
    return str(folder.path.absolute() / _RANDOM_FOLDER / name)


def write_random_weights(trial: PlannedTrial) -> None:
    """Draws the random weights of a trial's encoder from its seed, where the file is not there yet."""
    path = trial.random_weights
    if not path or os.path.exists(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    encoder: EncoderConfig = replace(without_weights(frozen_encoder(trial.config.model.encoder)), trainable=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(trial.config.seed, "random encoder"))
        tensors: Mapping[str, torch.Tensor] = build_encoder(encoder, trial.config.env.image_size).state_dict()
    with atomic_file(path) as temporary:
        if isinstance(encoder, VideoEncoderConfig):
            torch.save({encoder.weights_part: dict(tensors)}, temporary)
        else:
            from safetensors.torch import save_file

            save_file({name: value.contiguous() for name, value in tensors.items()}, str(temporary))
