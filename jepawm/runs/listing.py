"""The runs there are, each in one glance."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from jepawm.config import home
from jepawm.config.places import local_path
from jepawm.config.tracking import TrackingConfig
from jepawm.config.yaml_io import read_yaml
from jepawm.errors import ConfigError, did_you_mean, first_line
from jepawm.evaluation.other_runs import OtherRun, OtherRuns
from jepawm.evaluation.result import EvaluationResult
from jepawm.runs.directory import FINISHED, LOCK_FILE, known_config
from jepawm.storage.holding import held, remove_stored, where
from jepawm.storage.reading import holder, refresh, refresh_home, stored_names

State = Literal["finished", "running", "unfinished"]


@dataclass(frozen=True)
class RunFacts:
    """What a run's folder says of it.

    Attributes:
        folder: The run directory.
        state: `finished`, `running` (a process holds it), or `unfinished` (the same command goes on with it).
        recipe: Name of its recipe.
        env_id: Its environment.
        checkpoints: Train steps of the checkpoints it keeps.
        num_train_steps: Train steps in all.
        experiment: `tracking.experiment`.
        result: What its evaluation found, or None.
        damage: Why `eval.json` cannot be read; empty where it can, or is not there.
        changed_s: Time of its last change, seconds since 1970.
        command: What it was made with, `train` or `pretrain`.
    """

    folder: str
    state: State
    recipe: str
    env_id: str
    checkpoints: tuple[int, ...]
    num_train_steps: int
    experiment: str
    result: EvaluationResult | None
    damage: str
    changed_s: float
    command: str = "train"

    @property
    def name(self) -> str:
        """Name of the folder."""
        return os.path.basename(self.folder)

    @property
    def headline(self) -> str:
        """Success of the first protocol, or what there is in its place."""
        if self.damage:
            return self.damage
        if self.command == "pretrain" and self.state == "finished":
            return f"encoder exported after {self.num_train_steps} train steps"
        if self.result is None:
            return f"{max(self.checkpoints, default=0)}/{self.num_train_steps} train steps"
        if self.result.played is not None:
            name = self.result.played.headline
            return f"{name} {self.result.protocols[name].planned.rate}"
        return "no environment, held-out prediction alone"


def list_runs() -> list[RunFacts]:
    """All runs under `$JEPAWM_HOME`, the newest last."""
    refresh_home()
    return sorted((read_run(folder) for folder in _run_folders()), key=lambda run: run.changed_s)


def find_run(name: str) -> RunFacts:
    """A run by its folder's path, or by its name under `$JEPAWM_HOME`.

    Raises:
        ConfigError: No such run.
    """
    for folder in (local_path(name), os.path.join(home(), name)):
        refresh(folder)
        if _is_run(folder):
            return read_run(os.path.abspath(folder))
    refresh_home()
    known = [os.path.basename(folder) for folder in _run_folders()]
    raise ConfigError(f"there is no run '{name}' in {where(home())}{did_you_mean(name, known)}")


def read_run(folder: str) -> RunFacts:
    """What the folder of a run says."""
    config = read_yaml(known_config(folder))
    checkpoints = Path(folder, "checkpoints")
    names = stored_names(str(checkpoints)) | set(os.listdir(checkpoints) if checkpoints.is_dir() else ())
    steps = (name.removeprefix("step-") for name in names if name.startswith("step-"))
    result, damage = _read_result(Path(folder, "eval.json"))
    recipe = Path(folder, "recipe")
    # Only a pretraining has stages.
    stages = config.get("stages") or [config.get("train", {})]
    return RunFacts(
        folder=folder,
        state=state_of(folder),
        recipe=recipe.read_text().strip() if recipe.is_file() else "",
        env_id=str(config.get("env", {}).get("id", "")),
        checkpoints=tuple(sorted(int(step) for step in steps if step.isdigit())),
        num_train_steps=sum(int(stage.get("num_train_steps", 0)) for stage in stages),
        experiment=_experiment_of(config),
        result=result,
        damage=damage,
        changed_s=_changed_s(folder),
        command="pretrain" if "stages" in config else "train",
    )


def _experiment_of(config: dict[str, Any]) -> str:
    return str((config.get("tracking") or {}).get("experiment", TrackingConfig.experiment))


def _changed_s(folder: str) -> float:
    return max(os.path.getmtime(each.path) for each in os.scandir(folder))


def _read_result(path: Path) -> tuple[EvaluationResult | None, str]:
    """What an evaluation found, or why its file cannot be read: one damaged run does not hide the others."""
    if not path.is_file():
        return None, ""
    try:
        return EvaluationResult.from_dict(json.loads(path.read_text("utf-8"))), ""
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return None, f"eval.json cannot be read ({type(error).__name__}: {first_line(error)})"


def other_runs(experiment: str, besides: str, *, at_most: int = 20) -> OtherRuns:
    """The newest runs of an experiment under `$JEPAWM_HOME`.

    Args:
        experiment: `tracking.experiment`.
        besides: Folder of the run or evaluation that the others stand beside.
        at_most: Runs to read; older ones are counted.
    """
    refresh_home()
    changed_s, unreadable = {}, []
    for folder in _run_folders():
        if folder == os.path.abspath(besides):
            continue
        try:
            if _experiment_of(read_yaml(known_config(folder))) == experiment:
                changed_s[folder] = _changed_s(folder)
        except (ConfigError, OSError):
            # A folder of a newer jepawm, a damaged one, or one that is being removed.
            unreadable.append(os.path.basename(folder))
    found = []
    for folder in sorted(changed_s, key=lambda folder: changed_s[folder], reverse=True)[:at_most]:
        try:
            run = read_run(folder)
        except (ConfigError, OSError):
            unreadable.append(os.path.basename(folder))
            continue
        report = os.path.join(folder, "report.html")
        has_report = os.path.isfile(report)
        found.append(OtherRun(run.name, run.recipe, run.env_id, run.headline, report if has_report else None))
    return OtherRuns(experiment, found, max(0, len(changed_s) - at_most), unreadable)


def remove_run(run: RunFacts) -> None:
    """Deletes a run's folder.

    Raises:
        ConfigError: A process holds the run.
        FolderBusyError: A driver on another machine holds it.
    """
    lock = FileLock(os.path.join(run.folder, LOCK_FILE), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{run.folder} is in use by another process; stop it first") from None
    try:
        with held(run.folder, wanted=lambda name: False):
            remove_stored(run.folder)
            shutil.rmtree(run.folder)
    finally:
        lock.release()


def age_text(changed_s: float) -> str:
    """How long ago something was, in the largest unit that fits."""
    left = max(0.0, time.time() - changed_s)
    for seconds, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if left >= seconds:
            return f"{left / seconds:.0f} {unit}"
    return f"{left:.0f} s"


def _run_folders() -> Iterator[str]:
    if os.path.isdir(home()):
        yield from (entry.path for entry in os.scandir(home()) if _is_run(entry.path))


def _is_run(folder: str) -> bool:
    return os.path.isfile(known_config(folder)) and os.path.isfile(os.path.join(folder, "recipe"))


def state_of(folder: str) -> State:
    """Whether a run is finished, held by a process, or can be continued."""
    if os.path.exists(os.path.join(folder, FINISHED)):
        return "finished"
    elsewhere = holder(folder)
    if elsewhere is not None and elsewhere.lives:
        return "running"
    path = os.path.join(folder, LOCK_FILE)
    if not os.path.exists(path):
        return "unfinished"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return "running"
    lock.release()
    return "unfinished"
