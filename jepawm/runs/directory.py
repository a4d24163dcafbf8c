"""The directory of a run: found again after a kill, never shared by two configurations.

```
RUN/
  config.yaml      resolved configuration          metrics.jsonl   training metrics, the truth
  recipe           name of the recipe              checkpoints/    resumable training states
  model/           the exported world model        eval.json       evaluation, machine-readable
  report.html      evaluation, for people          wall_s.json     wall time of each stage
  base/            of a model with a compact encoder: the encoder below, trained first (checkpoints, metrics, model)
  finished         empty; there once all of the above is
```
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from jepawm.config import RunConfig, home
from jepawm.config.places import local_path
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.recipe_files import all_recipe_names, load_recipe, recipe_names
from jepawm.config.yaml_io import flatten, load_yaml, save_yaml
from jepawm.errors import ConfigError, FolderInUseError
from jepawm.shared_folders import told_if_gone
from jepawm.storage.holding import Say, held, remove_stored, where
from jepawm.storage.lease import FolderBusyError
from jepawm.storage.reading import refresh, refresh_home

Job = RunConfig | PretrainConfig

FINISHED = "finished"
LOCK_FILE = ".lock"


def prepare_run_dir(config: Job, recipe: str, say: Say = lambda text: None) -> tuple[str, bool]:
    """Finds the run to continue, or makes a new one.

    Args:
        config: The resolved configuration.
        recipe: Name or file of its recipe; of a configuration made in Python, any label.
        say: Told a line where an earlier driver of a run at a URI is waited for, or much is downloaded.

    Returns:
        The run directory and whether an earlier run continues there.

    Raises:
        ConfigError: `run_dir` holds a run of another configuration, or something that is no run.
        FolderBusyError: A driver on another machine has the run.
    """
    if config.run_dir is not None:
        folder = os.path.abspath(local_path(config.run_dir))
        refresh(folder)
        if not os.path.isdir(folder) or not os.listdir(folder):
            return _new_run(folder, config, recipe), False
        is_longer = _check_same_run(folder, config)
        with lock_run(folder, say):
            if is_longer:
                # The longer training is not done, whatever the shorter one was.
                Path(folder, FINISHED).unlink(missing_ok=True)
            _save(config, folder)
        return folder, True
    runs, stem = home(), run_stem(config, recipe)
    refresh_home()
    if config.resume == "auto":
        for folder in _unfinished_runs(runs, config, recipe):
            try:
                _check_same_run(folder, config)
                with lock_run(folder, say):
                    # Settings that may differ in a continued run (evaluation, scaling) are those of this command.
                    _save(config, folder)
                    return folder, True
            except (ConfigError, FolderBusyError):
                # The run has another configuration, or another process runs it.
                continue
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = os.path.join(runs, f"{stem}-{stamp}-seed{config.seed}")
    suffix = 1
    while os.path.exists(folder):
        suffix += 1
        folder = os.path.join(runs, f"{stem}-{stamp}-seed{config.seed}-{suffix}")
    return _new_run(folder, config, recipe), False


def check_run_dir(config: Job) -> None:
    """Refuses a `run_dir` that holds a run of another configuration, or something that is no run; writes nothing.

    Raises:
        ConfigError: Says what the directory holds.
    """
    if config.run_dir is None:
        return
    folder = os.path.abspath(local_path(config.run_dir))
    refresh(folder)
    if os.path.isdir(folder) and os.listdir(folder):
        _check_same_run(folder, config)


def run_stem(config: Job, recipe: str) -> str:
    """The beginning of the names of a configuration's run directories.

    It is `config.name`; without that the recipe's name, or the environment's name where `env.id` is not the recipe's.
    """
    if config.name is not None:
        return config.name
    is_recipe = os.path.isfile(recipe) or recipe in recipe_names()
    if isinstance(config, RunConfig) and is_recipe and config.env.id not in ("none", load_recipe(recipe).env.id):
        return config.env.short_name
    return _recipe_stem(recipe)


def _unfinished_runs(runs: str, config: Job, recipe: str) -> list[str]:
    """Run directories that the configuration may continue, the newest first."""
    # Runs in another environment than their recipe's were once named after the recipe all the same.
    stems = {run_stem(config, recipe)} | (set() if config.name is not None else {_recipe_stem(recipe)})
    started: dict[str, str] = {}
    for name in os.listdir(runs) if os.path.isdir(runs) else ():
        stem = next((stem for stem in stems if name.startswith(f"{stem}-")), None)
        if stem is not None and not os.path.exists(os.path.join(runs, name, FINISHED)):
            started[os.path.join(runs, name)] = name.removeprefix(f"{stem}-")
    return sorted(started, key=lambda folder: started[folder], reverse=True)


def _recipe_stem(recipe: str) -> str:
    beside = Path(recipe).with_name("recipe")
    if os.path.basename(recipe) == "config.yaml" and beside.is_file():
        # A run's configuration is a recipe as well; its name is that of the recipe the run was made with.
        recipe = beside.read_text().strip()
    if recipe in all_recipe_names():
        return recipe.replace("/", "_")
    return os.path.basename(recipe).removesuffix(".yaml").removesuffix(".yml")


def discard_new_run(folder: str) -> None:
    """Removes the directory of a run that was refused before it did anything; one that holds more stays."""
    made = {"config.yaml", "recipe", LOCK_FILE}
    if set(os.listdir(folder)) <= made:
        for name in made:
            Path(folder, name).unlink(missing_ok=True)
        os.rmdir(folder)
        remove_stored(folder)


def sweep_leftovers(folder: str) -> None:
    """Removes what killed processes left half-written in a run; the caller holds the run, see `lock_run`."""
    for place in (Path(folder), Path(folder, "checkpoints")):
        for leftover in place.glob("*.tmp-*"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def _new_run(folder: str, config: Job, recipe: str) -> str:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the run directory {folder}: {error.strerror}; choose another with --run-dir or $JEPAWM_HOME"
        ) from error
    Path(folder, "recipe").write_text(recipe + "\n")
    _save(config, folder)
    return folder


def begin_run(config: Job, recipe: str, folder: str) -> None:
    """Makes a folder that holds other files the directory of a run, which `prepare_run_dir` then continues.

    Args:
        config: The resolved configuration.
        recipe: Name of its recipe.
        folder: Of a trial, whose own files lie beside those of its run.
    """
    Path(folder, "recipe").write_text(recipe + "\n", encoding="utf-8")
    _save(config, folder)


def _save(config: Job, folder: str) -> None:
    # Without `run_dir`, so that the file is a recipe for any place.
    save_yaml(replace(config, run_dir=None), known_config(folder))


def known_config(folder: str) -> str:
    """Path of a run's saved configuration."""
    return os.path.join(folder, "config.yaml")


def _check_same_run(folder: str, config: Job) -> bool:
    """Refuses a directory that holds a run of another configuration.

    A run that is named with `run_dir` may be trained longer.

    Returns:
        Whether it is.
    """
    known = known_config(folder)
    if not os.path.isfile(known):
        raise ConfigError(f"run_dir {where(folder)} is not empty and holds no run (no config.yaml); choose another")
    if config.resume == "never":
        raise ConfigError(
            f"run_dir {where(folder)} holds a run already and --resume is 'never'; choose another directory"
        )
    before = flatten(load_yaml(type(config), known).training_identity())
    now = flatten(config.training_identity())
    steps = "train.num_train_steps"
    # Stages of a pretraining keep their lengths, by which its schedules count.
    is_longer = steps in now and config.run_dir is not None and now[steps] > before[steps]
    if is_longer:
        before[steps] = now[steps]
    changed = [f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in now if now[key] != before.get(key)]
    if changed:
        raise ConfigError(
            f"run_dir {where(folder)} holds a run of another configuration ({'; '.join(changed[:5])}); choose another "
            "directory, or repeat its settings"
        )
    return is_longer


@contextlib.contextmanager
def lock_run(folder: str, say: Say = lambda text: None) -> Iterator[None]:
    """Holds a run directory for this process; one that stands for a URI for this machine, and brings its files here.

    Args:
        folder: The run directory.
        say: Told a line where that takes longer.

    Raises:
        FolderInUseError: Another process holds it.
        FolderBusyError: A driver on another machine holds it.
        StorageError: The store of its URI does not answer.
        FolderGoneError: The directory went away while this process held it.
    """
    lock = FileLock(os.path.join(folder, LOCK_FILE), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"run_dir {where(folder)} is in use by another process; wait for it, or choose another"
        ) from None
    try:
        with told_if_gone(folder), held(folder, say):
            yield
    finally:
        lock.release()
