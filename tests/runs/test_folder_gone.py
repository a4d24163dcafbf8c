"""A run whose folder goes away, as a shared file system does: it says so, leaves nothing in its place, and goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
from toy_run import TOY, toy

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.console import Console
from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.writer import EpisodeWriter
from jepawm.errors import ConfigError, FolderGoneError
from jepawm.runs.directory import lock_run
from jepawm.runs.episodes import prepare_dataset
from jepawm.runs.pipeline import run
from jepawm.runs.runtime import LocalRuntime


def unmount(home: Path) -> Path:
    """What every path then sees: an empty mount point."""
    away = home.rename(home.with_name("away"))
    home.mkdir()
    return away


def mount(home: Path, away: Path) -> None:
    home.rmdir()
    away.rename(home)


def test_a_run_whose_home_goes_away_says_so_and_goes_on_when_it_is_back(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("JEPAWM_HOME", str(home))
    monkeypatch.setattr("jepawm.runs.evaluation.write_report", lambda path, *_: Path(path).write_text(""))
    train = replace(TOY.train, checkpoint_every=2, num_train_steps=6)
    config = toy(run_dir=str(home / "run"), train=train)

    def unmount_at_the_second(place: str, train_step: int, record: object) -> None:
        if train_step == 4:
            unmount(home)

    with pytest.raises(FolderGoneError, match=r"home/run went away .*now there: .*give the same command again"):
        run(config, "demo", LocalRuntime(unmount_at_the_second), Console(quiet=True))
    # Nothing went to the bare mount point, where it would be lost.
    assert list(home.iterdir()) == []
    mount(home, tmp_path / "away")
    assert {path.name for path in (home / "run" / "checkpoints").iterdir()} == {"step-00000002", "step-00000004"}
    seen = []
    run(config, "demo", LocalRuntime(lambda place, train_step, record: seen.append(train_step)), Console(quiet=True))
    assert seen == [6]
    undisturbed = toy(run_dir=str(home / "undisturbed"), train=train)
    run(undisturbed, "demo", LocalRuntime(), Console(quiet=True))
    assert weights_sha256(str(home / "run" / "model")) == weights_sha256(str(home / "undisturbed" / "model"))


def test_a_collection_whose_home_goes_away_says_so_and_goes_on_when_it_is_back(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("JEPAWM_HOME", str(home))
    write = EpisodeWriter.write

    def write_and_unmount(writer, episode):
        write(writer, episode)
        if episode.episode_id == 4:
            unmount(home)

    with monkeypatch.context() as patched:
        patched.setattr(EpisodeWriter, "write", write_and_unmount)
        with pytest.raises(FolderGoneError, match=r"home/datasets/\S+ went away"):
            prepare_dataset(toy(), LocalRuntime(), Console(quiet=True))
    assert list(home.iterdir()) == []
    mount(home, tmp_path / "away")
    dataset = EpisodeDataset(prepare_dataset(toy(), LocalRuntime(), Console(quiet=True)))
    assert len(dataset) == toy().data.num_episodes
    assert check_dataset(dataset.path) == []


def fail(*before, error: Exception) -> None:
    for each in before:
        each()
    raise error


def test_an_error_in_a_folder_that_is_there_or_that_was_discarded_keeps_its_own_words(tmp_path):
    folder = tmp_path / "home" / "run"
    folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match="wrong"), lock_run(str(folder)):
        fail(error=ConfigError("wrong"))
    # A new run that is refused removes its own folder.
    with pytest.raises(ConfigError, match="refused"), lock_run(str(folder)):
        fail((folder / ".lock").unlink, folder.rmdir, error=ConfigError("refused"))
    folder.mkdir()
    with pytest.raises(FolderGoneError, match=r"run went away .*; wrong"), lock_run(str(folder)):
        fail(lambda: unmount(folder.parent), error=ConfigError("wrong"))


def test_a_folder_that_a_library_made_anew_in_place_of_one_that_went_away_is_gone(tmp_path):
    folder = tmp_path / "home" / "run"
    folder.mkdir(parents=True)
    with pytest.raises(FolderGoneError, match=r"run went away .*; no such file"), lock_run(str(folder)):
        fail(lambda: unmount(folder.parent), folder.mkdir, error=FileNotFoundError("no such file"))
