"""`jepawm episodes`: made without a model, shown, and the same for the same words."""

import json
from pathlib import Path

import pytest

from jepawm.cli.main import main
from jepawm.evaluation.episodes import read_episodes

WORDS = ["--local", "--env.image-size", "32", "--evaluation.num-episodes", "3"]


def test_an_episode_set_is_made_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / "home"))
    path, again = str(tmp_path / "set.json"), str(tmp_path / "again.json")
    source = ["--evaluation.goal-source", "random_actions", "--evaluation.goal-offset", "4"]
    assert main(["episodes", "make", path, *WORDS, *source]) == 0
    assert main(["episodes", "make", again, *WORDS, *source]) == 0
    assert Path(path).read_text() == Path(again).read_text()
    found = read_episodes(path)
    assert (len(found.tasks), found.goal_source, found.goal_offset_env_steps) == (3, "random_actions", 20)
    assert main(["episodes", "make", again, *WORDS, *source, "--evaluation.seed", "7"]) == 0
    assert read_episodes(again).sha256 != found.sha256
    capsys.readouterr()
    assert main(["episodes", "show", path]) == 0
    shown = capsys.readouterr().out
    assert "3, 3 with the actions that lead to the goal" in shown
    assert "random_actions, 20 env_steps to the goal, seed 99" in shown
    assert found.sha256 in shown


def test_wrong_use_is_answered_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes"]) == 2
    assert main(["episodes", "mak"]) == 2
    assert main(["episodes", "make"]) == 2
    assert "pass a file: jepawm episodes make FILE" in capsys.readouterr().err
    assert main(["episodes", "make", str(tmp_path / "x.json"), "--local", "--evaluation.episodes", "y.json"]) == 2
    assert "evaluation.episodes names a set that exists" in capsys.readouterr().err
    changed = {"version": 1}
    (tmp_path / "broken.json").write_text(json.dumps(changed))
    assert main(["episodes", "show", str(tmp_path / "broken.json")]) != 0
    assert "'env_id' is missing" in capsys.readouterr().err
