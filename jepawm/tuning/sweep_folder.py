"""The folder of a sweep: what a tracker, a report and the same command read.

```
SWEEP/
  sweep.json      base configuration, space and settings      trials/NNN/   one run each, see `jepawm.tuning.trial`
  trials.jsonl    one line for each trial that is over        final/NNN/    the best ones on fresh episodes
  final.json      what those found                            report.html   for people
```
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.metrics import SuccessRate
from jepawm.files import append_line, atomic_file, finite, write_json
from jepawm.tuning.description import SweepDescription
from jepawm.tuning.trial import TrialFolder, TrialRecord

SWEEP_FILE = "sweep.json"
TRIALS_FILE = "trials.jsonl"
FINAL_FILE = "final.json"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Final:
    """One of the best trials on fresh episodes.

    Attributes:
        number: Of the trial.
        in_sweep: Its success on the sweep's episodes, which it was chosen by.
        fresh: Its success on episodes that no trial was chosen by.
        value: `tune.metric` there; None where it is not finite.
        run_dir: The evaluation.
    """

    number: int
    in_sweep: SuccessRate
    fresh: SuccessRate
    value: float | None
    run_dir: str

    @property
    def drop(self) -> float:
        """How much lower the success rate is on fresh episodes."""
        return self.in_sweep.success_rate - self.fresh.success_rate

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "drop": self.drop}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Final":
        """Inverse of `to_dict`."""
        own = {key: value for key, value in data.items() if key != "drop"}
        for name in ("in_sweep", "fresh"):
            rate = own[name]
            own[name] = SuccessRate(rate["success_rate"], tuple(rate["success_interval"]), rate["num_episodes"])
        return cls(**own)


class SweepFolder:
    """The files of one sweep.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def begin(self, description: SweepDescription) -> bool:
        """Writes what the sweep is; a folder that holds the same sweep already goes on.

        Args:
            description: What it is.

        Returns:
            Whether it goes on.

        Raises:
            ConfigError: The folder holds another sweep, or something else.
        """
        before = self.description
        if before is None:
            if self.path.is_dir() and any(each.name != ".lock" for each in self.path.iterdir()):
                raise ConfigError(f"run_dir {self.path} is not empty and holds no sweep ({SWEEP_FILE}); choose another")
            self.path.mkdir(parents=True, exist_ok=True)
        else:
            changed = [f"{key} was {old!r}, is {new!r}" for key, old, new in before.differences(description)]
            if changed:
                raise ConfigError(
                    f"run_dir {self.path} holds another sweep ({'; '.join(changed[:5])}); choose another folder, or "
                    "repeat its settings"
                )
        write_json(self.path / SWEEP_FILE, description.to_dict())
        return before is not None

    @property
    def description(self) -> SweepDescription | None:
        """What `sweep.json` holds; None where there is none.

        Raises:
            DataError: The file is no sweep.
        """
        path = self.path / SWEEP_FILE
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is no sweep that can be read: {error}") from error
        return SweepDescription.from_dict(data, str(path))

    def trial(self, number: int) -> TrialFolder:
        """The folder of a trial."""
        return TrialFolder(self.path / "trials" / f"{number:03d}")

    @property
    def numbers(self) -> list[int]:
        """Trials that were begun."""
        names = [each.name for each in (self.path / "trials").glob("*") if each.name.isdigit()]
        return sorted(int(name) for name in names if self.trial(int(name)).point is not None)

    @property
    def over(self) -> list[TrialRecord]:
        """Trials that are over, by number."""
        results = [self.trial(number).result for number in self.numbers]
        return [record for record in results if record is not None]

    def write_trials(self) -> list[TrialRecord]:
        """Writes `trials.jsonl` from the trials' own results, which are the truth; returns them."""
        records = self.over
        with atomic_file(self.path / TRIALS_FILE) as temporary:
            temporary.write_text("".join(_line(record) for record in records))
        return records

    def append_trial(self, record: TrialRecord) -> None:
        """Adds the line of a trial that is over to `trials.jsonl`, which `write_trials` began."""
        append_line(self.path / TRIALS_FILE, _line(record))

    def final_dir(self, number: int) -> Path:
        """Where a trial is evaluated again."""
        return self.path / "final" / f"{number:03d}"

    def write_finals(self, finals: list[Final], seed: int) -> None:
        """Writes `final.json`: what the best trials found on the episodes of a fresh seed."""
        write_json(self.path / FINAL_FILE, {"seed": seed, "trials": [each.to_dict() for each in finals]})


def _line(record: TrialRecord) -> str:
    return json.dumps(finite(record.to_dict()), allow_nan=False) + "\n"
