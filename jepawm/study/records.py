"""The folder of a study, and what is known of each of its trials.

```
STUDY/
  plan.json        which trials there are, and the tracker
  study.json       the command and all numbers of the report     report.html   for people     report.md   for docs
  encoders/        random weights, one file a seed
  trials/NAME-ID/  a run, and trial.json (what is to be done), found.json (what was measured), transfers/LABEL-KEY/
```
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jepawm.files import finite, write_json

PLAN_FILE = "plan.json"
STUDY_FILE = "study.json"
REPORT_FILE = "report.html"
MARKDOWN_FILE = "report.md"
TRIAL_FILE = "trial.json"
FOUND_FILE = "found.json"


@dataclass(frozen=True)
class Part:
    """Something that is done once of a trial, beside the run itself.

    Attributes:
        name: `probes` (of latents), `feature probes`, `cost`, `reconstruction`, or `transfer LABEL`.
        settings: What it depends on besides the trial; never where the trial stands in the grid.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Tells it from the same part with other settings."""
        text = json.dumps([self.name, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class TrialJob:
    """What a trial does; the file `trial.json` in its folder.

    Attributes:
        identity: See `jepawm.study.cells.identity`.
        name: For people.
        config: The run, as plain data.
        recipe: Shown in its report.
        parts: What is measured beside the run's own evaluation.
    """

    identity: str
    name: str
    config: Mapping[str, Any]
    recipe: str
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrialJob":
        """Inverse of `to_dict`."""
        return cls(**{**data, "parts": tuple(Part(**each) for each in data["parts"])})


@dataclass(frozen=True)
class Found:
    """What is known of a trial.

    Attributes:
        seconds: Wall time over all starts.
        error: Why it failed; empty otherwise.
        evaluated: Whether the run is done.
        parts: What each part found, by its key.
    """

    seconds: float = 0.0
    error: str = ""
    evaluated: bool = False
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def is_over(self, job: TrialJob) -> bool:
        """Whether nothing is left to be done."""
        return bool(self.error) or (self.evaluated and all(part.key in self.parts for part in job.parts))

    def failed(self, error: str) -> "Found":
        """The same of a trial that ended with an error."""
        return replace(self, error=error)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class StudyPlan:
    """Which trials a study has as it was started last; the file `plan.json` in its folder.

    Attributes:
        labels: Of each trial, by its identity, where it stands in the grid: `environment`, `encoder` and `share`.
        tracking: The section `tracking` of its runs.
    """

    labels: Mapping[str, Mapping[str, str]]
    tracking: Mapping[str, Any]


class StudyFolder:
    """The files of a study.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def trial(self, identity: str, name: str = "") -> "TrialFolder":
        """The folder of a trial, found by its identity whatever it was named when it began."""
        there = sorted((self.path / "trials").glob(f"*-{identity}"))
        return TrialFolder(there[0] if there else self.path / "trials" / f"{name}-{identity}")

    def begin(self, plan: StudyPlan) -> None:
        """Writes down which trials there are."""
        write_json(self.path / PLAN_FILE, asdict(plan))

    @property
    def plan(self) -> StudyPlan | None:
        """What was written down at the last start; None: nothing was."""
        path = self.path / PLAN_FILE
        return StudyPlan(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    @property
    def trials(self) -> dict[str, "TrialFolder"]:
        """Those that were begun and are in the plan, by identity."""
        plan = self.plan
        begun = {file.parent.name.rpartition("-")[2]: file for file in (self.path / "trials").glob(f"*/{TRIAL_FILE}")}
        known = () if plan is None else plan.labels
        return {which: TrialFolder(begun[which].parent) for which in known if which in begun}


class TrialFolder:
    """The files of a trial.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def begin(self, job: TrialJob) -> None:
        """Writes what is to be done; what was found before stays."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / TRIAL_FILE, job.to_dict())

    @property
    def job(self) -> TrialJob:
        """What is to be done."""
        return TrialJob.from_dict(json.loads((self.path / TRIAL_FILE).read_text(encoding="utf-8")))

    @property
    def found(self) -> Found:
        """What was found so far."""
        path = self.path / FOUND_FILE
        return Found(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Found()

    def write(self, found: Found) -> Found:
        """Keeps what was found, in the folder that `begin` made: one that went away is not made anew."""
        write_json(self.path / FOUND_FILE, finite(found.to_dict()))
        return found

    def transfer(self, part: Part) -> Path:
        """Where a transfer is played."""
        return self.path / "transfers" / f"{part.name.removeprefix('transfer ')}-{part.key}"
