"""What a sweep is, as `sweep.json` holds it: the run that points change, the space, and the sweep's settings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jepawm.errors import DataError

FORMAT = 1

# Settings that may change when the same sweep goes on: they change no trial.
_MAY_CHANGE = (
    *("num_trials", "num_final", "final_episodes"),
    *("max_concurrent", "max_deaths", "cpus_per_trial", "gpus_per_trial"),
)
# Sections and settings of a run that say where it works and is shown.
_OF_THE_PLACE = ("tracking", "run_dir", "name", "resume", "local", "scaling")


@dataclass(frozen=True)
class SweepDescription:
    """A sweep in plain data, which a tuner that knows no run can keep and compare.

    Attributes:
        config: The run that points change.
        recipe: Name of its recipe.
        model: A trained model that the trials plan with; None: each trial trains one.
        space: What is tried, each parameter in words.
        space_name: Name of the space.
        words: Flags of the command besides those of the sweep.
        settings: Of the sweep.
        models: Where points name a model each: its configuration and the SHA-256 of its weights, by its folder.
    """

    config: Mapping[str, Any]
    recipe: str
    model: str | None
    space: Mapping[str, Any]
    space_name: str
    words: tuple[str, ...]
    settings: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What `sweep.json` holds."""
        own = asdict(self)
        return {"format": FORMAT, **{key: value for key, value in own.items() if key != "models" or value}}

    @classmethod
    def from_dict(cls, data: Any, where: str) -> "SweepDescription":
        """Inverse of `to_dict`.

        Args:
            data: What the file holds.
            where: The file, for errors.

        Raises:
            DataError: It is no sweep, or has another format.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = f"format {data.get('format')!r}" if isinstance(data, dict) else f"a {type(data).__name__}"
            raise DataError(f"{where} is no sweep that can be read: expected format {FORMAT}, found {found}")
        own = {key: value for key, value in data.items() if key != "format"}
        expected = [each for each in cls.__dataclass_fields__ if each != "models"]
        if own.keys() - {"models"} != set(expected):
            raise DataError(
                f"{where} is no sweep that can be read: expected the keys {', '.join(expected)}, found {', '.join(own)}"
            )
        return cls(**{**own, "words": tuple(own["words"])})

    def in_json(self) -> "SweepDescription":
        """The same with the types that it has when it is read again, such as lists in place of tuples."""
        return SweepDescription.from_dict(json.loads(json.dumps(self.to_dict())), "the sweep")

    def of_trials(self) -> dict[str, Any]:
        """What the trials depend on."""
        settings = {key: value for key, value in self.settings.items() if key not in _MAY_CHANGE}
        config = {key: value for key, value in self.config.items() if key not in _OF_THE_PLACE}
        trials = {"config": config, "space": self.space, "model": self.model, "settings": settings}
        models = {
            model: {**each, "config": {key: value for key, value in each["config"].items() if key not in _OF_THE_PLACE}}
            for model, each in self.models.items()
        }
        return {**trials, "models": models} if models else trials

    def differences(self, other: "SweepDescription") -> list[tuple[str, Any, Any]]:
        """Keys in which two sweeps differ, with both values, as far as their trials depend on them."""
        old, new = _flat(self.in_json().of_trials()), _flat(other.in_json().of_trials())
        return [(key, old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        # A key of a space has dots of its own, so the parts of a path are joined with something else.
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
