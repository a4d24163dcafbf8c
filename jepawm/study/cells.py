"""Which trials a study has: one for each environment, encoder, share of the episodes and seed."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepawm.config.recipe_files import recipe_layers
from jepawm.config.study import StudyConfig
from jepawm.config.yaml_io import flatten, unflatten

# Sections and settings of a run that say where it works and is shown; trials that differ in them alone are one.
OF_THE_PLACE = ("device", "name", "run_dir", "resume", "local", "scaling", "tracking", "max_gpu_hours")
# Settings that decide what is logged and drawn, and no number of the report.
SHOWN_ONLY = ("train.log_every", "evaluation.num_animations", "evaluation.videos")
# Weights are told apart by what the files hold, so that a file that moves is the same, and one that changes is another.
_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".yaml", ".json")
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Cell:
    """One place of a study's grid.

    Attributes:
        environment: Label of the environment.
        encoder: Label of the encoder.
        fraction: Share of the training episodes.
        seed: Of the training.
        is_largest: Whether no other share of this encoder is larger; what costs most is measured there alone.
        is_early: Whether the seed is one of the first, for which a decoder is trained.
    """

    environment: str
    encoder: str
    fraction: float
    seed: int
    is_largest: bool
    is_early: bool

    @property
    def name(self) -> str:
        """For folders and messages, e.g. `wall-dinov2-100pct-seed0`."""
        return f"{self.environment}-{self.encoder}-{100 * self.fraction:g}pct-seed{self.seed}"


def cells(study: StudyConfig) -> tuple[Cell, ...]:
    """All of them, the largest shares and the first seeds first, so that a study that is cut short compares the most.

    Encoders that are not asked about, or whose weights were not given, are left out.
    """
    found = [
        Cell(
            environment,
            label,
            fraction,
            seed,
            is_largest=fraction == max(encoder.fractions or study.fractions),
            is_early=place < study.measures.reconstruction_seeds,
        )
        for label, encoder in study.encoders.items()
        if label in study.wanted and label not in study.left_out
        for environment in encoder.environments or tuple(study.environments)
        for fraction in encoder.fractions or study.fractions
        for place, seed in enumerate(study.seeds_of(label))
    ]
    seeds = list(study.seeds) + [cell.seed for cell in found]
    return tuple(sorted(found, key=lambda cell: (-cell.fraction, seeds.index(cell.seed))))


def cell_layers(study: StudyConfig, cell: Cell, *, weights: str | None) -> list[tuple[str, dict[str, Any]]]:
    """The settings of a cell's run, the lowest layer first, each with the name that errors show.

    Args:
        study: The study.
        cell: The cell.
        weights: Put into the encoder's `weights_key`; None: as its settings say. They stand in one layer with these
            settings, so that a folder of weights whose settings are others is refused.
    """
    environment, encoder = study.environments[cell.environment], study.encoders[cell.encoder]
    settings = encoder.settings
    if weights is not None:
        settings = unflatten({**flatten(settings), encoder.weights_key: weights})
    return [
        *recipe_layers(environment.recipe or study.recipe),
        (f"study {study.name}, settings", study.settings),
        (f"study {study.name}, environments.{cell.environment}", environment.settings),
        (f"study {study.name}, encoders.{cell.encoder}", settings),
        (cell.name, {"seed": cell.seed, "data": {"train_fraction": cell.fraction}}),
    ]


def identity(
    settings: Mapping[str, Any], *, weights: str, data_seed: int, contents: Mapping[str, str] | None = None
) -> str:
    """Twelve letters that tell a trial from every other one: a hash of all that its outcome depends on.

    The place of a trial in the study, and the labels there, are no part of it; neither is where the files lie that it
    reads.

    Args:
        settings: The resolved run, as plain data, with its source of episodes as the study states it.
        weights: What the encoder's weights hold, see `weights_digest`.
        data_seed: Of the episodes.
        contents: Of settings that name files or folders, what these hold, by dotted key.
    """
    contents = contents or {}
    kept = {key: value for key, value in settings.items() if key not in OF_THE_PLACE}
    plain = _without(_without_weights(kept), {*SHOWN_ONLY, *contents})
    text = json.dumps([plain, weights, data_seed, dict(contents)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_weights(value: Any) -> Any:
    """Settings without any path of weights, which `weights` of `identity` stand for."""
    if not isinstance(value, dict):
        return value
    return {key: _without_weights(each) for key, each in value.items() if key != "weights"}


def _without(value: Any, keys: set[str], prefix: str = "") -> Any:
    """Settings without some dotted keys."""
    if not isinstance(value, dict):
        return value
    return {key: _without(each, keys, f"{prefix}{key}.") for key, each in value.items() if f"{prefix}{key}" not in keys}


def weights_digest(source: str) -> str:
    """What a file of weights, or the files of a folder, hold; an address elsewhere stands for itself."""
    path = Path(os.path.expanduser(source))
    if not path.exists():
        return source
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in _WEIGHT_FILES and each.is_file())
    digest = hashlib.sha256()
    for each in files:
        digest.update(each.name.encode())
        with open(each, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
