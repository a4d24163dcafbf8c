"""One trial of a sweep: what it found, and the files that survive a kill.

```
TRIAL/            a run directory as `jepawm train` leaves it, and
  trial.json      number and point; written before the trial begins
  starts.jsonl    one line for each time that a process took the trial up, with the train step it went on from
  rungs.jsonl     one line for each rung: train step, value, seconds of the trial so far
  result.json     what the trial found; there once it is over, and then it never runs again
```
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jepawm.files import append_line, write_json
from jepawm.tuning.space import Point

Status = Literal["finished", "stopped", "failed"]

TRIAL_FILE = "trial.json"
RESULT_FILE = "result.json"
STARTS_FILE = "starts.jsonl"
RUNGS_FILE = "rungs.jsonl"


@dataclass(frozen=True)
class Rung:
    """What a trial was compared by on the way.

    Attributes:
        train_step: Updates made.
        value: Of the rungs' metric.
        seconds: Wall time of the trial so far, over all starts.
    """

    train_step: int
    value: float
    seconds: float


@dataclass(frozen=True)
class Takeover:
    """A trial went on with weights and settings of another one.

    Attributes:
        source: Number of the other trial.
        train_step: Updates that its checkpoint had.
        point: Settings from there on, by dotted key.
        mark: Tells it apart from every other one.
    """

    source: int
    train_step: int
    point: Point
    mark: str


@dataclass(frozen=True)
class TrialRecord:
    """What a trial found.

    Attributes:
        number: Counted from 0.
        point: Its settings by dotted key; the last ones where they changed on the way.
        status: `finished`; `stopped`: the scheduler ended it; `failed`: see `error`.
        rungs: Values on the way, in order.
        metrics: Of the evaluation and of the last line of `metrics.jsonl`; empty unless it finished.
        seconds: Wall time over all starts.
        run_dir: The trial's folder.
        episodes: Episodes that a success rate rests on; 0 where none were played.
        error: Why it failed; empty otherwise.
        takeovers: From which trials it took weights over.
    """

    number: int
    point: Point
    status: Status
    run_dir: str
    rungs: tuple[Rung, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    episodes: int = 0
    error: str = ""
    takeovers: tuple[Takeover, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """One line of `trials.jsonl`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrialRecord":
        """Inverse of `to_dict`."""
        own = dict(data)
        # JSON has no NaN, so a value that is not a number is null there.
        own["rungs"] = tuple(Rung(**{**each, "value": _number(each["value"])}) for each in data["rungs"])
        own["takeovers"] = tuple(Takeover(**each) for each in data["takeovers"])
        own["metrics"] = {key: _number(value) for key, value in data["metrics"].items()}
        return cls(**own)

    def value(self, metric: str) -> float | None:
        """A metric; None where the trial has none, or one that is not finite."""
        found = self.metrics.get(metric)
        return found if found is not None and abs(found) < float("inf") else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


class TrialFolder:
    """The files of one trial.

    Args:
        path: The trial's folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    # -- before it begins --------------------------------------------------------------------------------------------

    def begin(self, number: int, point: Point) -> None:
        """Writes down which trial this is."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / TRIAL_FILE, {"number": number, "point": point, "takeovers": []})

    @property
    def point(self) -> Point | None:
        """Its settings; None where it was not begun."""
        begun = self._begun
        return None if begun is None else dict(begun["point"])

    @property
    def takeovers(self) -> tuple[Takeover, ...]:
        """From which trials it took weights over."""
        begun = self._begun
        return () if begun is None else tuple(Takeover(**each) for each in begun["takeovers"])

    def take_over(self, takeover: Takeover) -> None:
        """Writes down that it goes on with weights and settings of another trial; later rungs are forgotten."""
        begun = self._begun
        assert begun is not None, "a trial that takes over has begun"
        takeovers = [asdict(each) for each in (*self.takeovers, takeover)]
        write_json(self.path / TRIAL_FILE, {**begun, "point": takeover.point, "takeovers": takeovers})
        self.forget_after(takeover.train_step)

    @property
    def _begun(self) -> dict[str, Any] | None:
        """What `begin` wrote; None where the trial was not begun."""
        path = self.path / TRIAL_FILE
        if not path.is_file():
            return None
        begun: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return begun

    # -- while it runs -----------------------------------------------------------------------------------------------

    def start(self, train_step: int) -> "TrialClock":
        """Notes that this process takes the trial up, with the checkpoint of a train step; returns its clock."""
        before = max((rung.seconds for rung in self.rungs), default=0.0)
        started = {"time_s": time.time(), "pid": os.getpid(), "train_step": train_step}
        append_line(self.path / STARTS_FILE, json.dumps(started) + "\n")
        self.forget_after(train_step)
        return TrialClock(before)

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Each time that a process took it up."""
        return _lines(self.path / STARTS_FILE)

    def add_rung(self, rung: Rung) -> None:
        """Notes a rung."""
        append_line(self.path / RUNGS_FILE, json.dumps(asdict(rung)) + "\n")

    def forget_after(self, train_step: int) -> None:
        """Drops rungs after a train step: their updates are lost."""
        rungs = self.rungs
        kept = [rung for rung in rungs if rung.train_step <= train_step]
        if len(kept) < len(rungs):
            path = self.path / RUNGS_FILE
            temporary = path.with_name(f"{RUNGS_FILE}.tmp-{os.getpid()}")
            temporary.write_text("".join(json.dumps(asdict(rung)) + "\n" for rung in kept))
            os.replace(temporary, path)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """Values on the way."""
        return tuple(Rung(**line) for line in _lines(self.path / RUNGS_FILE))

    # -- when it is over ---------------------------------------------------------------------------------------------

    def finish(self, record: TrialRecord) -> TrialRecord:
        """Keeps what the trial found, and returns it."""
        write_json(self.path / RESULT_FILE, record.to_dict())
        return record

    def record(self, number: int, status: Status, *, seconds: float, **found: Any) -> TrialRecord:
        """What the trial found, with what its files say.

        Args:
            number: Of the trial.
            status: How it ended.
            seconds: Wall time over all starts.
            **found: `metrics`, `episodes` or `error`.
        """
        return TrialRecord(
            number=number,
            point=self.point or {},
            status=status,
            run_dir=str(self.path),
            rungs=self.rungs,
            seconds=seconds,
            takeovers=self.takeovers,
            **found,
        )

    @property
    def result(self) -> TrialRecord | None:
        """What it found; None while it is not over."""
        path = self.path / RESULT_FILE
        if not path.is_file():
            return None
        return TrialRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))


class TrialClock:
    """Wall time of a trial over all its starts.

    Args:
        before: Seconds of earlier starts, as far as rungs know them.
    """

    def __init__(self, before: float) -> None:
        self._before = before
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._began


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file; a line that a kill cut short is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [line for line in found if isinstance(line, dict)]
