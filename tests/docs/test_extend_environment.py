"""docs/extend/environment.md: its code is saved, and its commands run, as the page says."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jepawm.cli.main import main
from jepawm.config import EnvConfig
from jepawm.data import EpisodeDataset
from jepawm.rollout import EnvHost
from jepawm.rollout.make import CONTRACT, make_env

MODULES = ("my_cart", "my_puck")


@pytest.fixture(scope="module")
def page(repo: Path) -> str:
    return (repo / "docs" / "extend" / "environment.md").read_text(encoding="utf-8")


@pytest.fixture
def saved(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's modules, in which commands are typed."""
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for name, block in zip(MODULES, blocks, strict=True):
        assert f"`{name}.py`" in page
        (tmp_path / f"{name}.py").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def commands(page: str, beginning: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(beginning)]
    return [shlex.split(line, comments=True) for line in lines]


def test_both_environments_pass_the_check(
    page: str, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jepawm.env_check.speed.SECONDS", 0.01)
    checks = commands(page, "jepawm env check")
    assert [words[3] for words in checks] == ["my_cart:Cart", "my_puck:Puck"]
    for words in checks:
        code = main(words[1:])
        assert code == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "through the adapter" in said
    assert "runs natively" in said


def test_its_commands_collect_datasets_that_keep_the_contract(
    page: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collects = commands(page, "jepawm collect")
    assert len(collects) == 2
    for words in collects:
        assert main([*words[1:], "--local"]) == 0, capsys.readouterr().err
        dataset = EpisodeDataset(saved / words[-1])
        assert [dataset.num_frames(int(i)) for i in dataset.episode_ids] == [21, 21, 21]
    (check,) = commands(page, "jepawm data check")
    assert main(check[1:]) == 0, capsys.readouterr().out


def test_its_training_command_is_one_that_is_understood(page: str, saved: Path) -> None:
    from jepawm.config.command_line import parse

    (words,) = commands(page, "python ray_jobs/train.py")
    config, _ = parse(words[2:])
    assert config.env.id == "my_puck:Puck"
    assert config.data.num_episodes == 500


def test_the_contract_table_has_every_required_part(page: str, saved: Path) -> None:
    required = page[page.index("## The contract, without the base class") : page.index("Optional parts:")]
    for name in (*CONTRACT, "action_space", "observation_space", "proprio_names"):
        assert f"`{name}" in required or f"{name}`" in required, name
    env = make_env(EnvConfig(id="my_puck:Puck", image_size=32))
    for name in CONTRACT:
        assert hasattr(env.unwrapped, name)


def test_the_adapter_options_it_names_exist(page: str) -> None:
    from jepawm.rollout.adapter.options import AdapterOptions

    (sentence,) = re.findall(r"changes the adapter, for example (.*?)\.\s+All", page, flags=re.DOTALL)
    named = re.findall(r"`(\w+)=", sentence)
    assert sorted(named) == sorted(AdapterOptions.NAMES)


def test_the_puck_has_the_goals_of_the_page(saved: Path) -> None:
    host = EnvHost(EnvConfig(id="my_puck:Puck", image_size=32))
    (task,) = host.sample_tasks([0], [7])
    assert host.solved([task.goal, task.start], [task.goal, task.goal]) == [True, False]
    assert host.describe().sim_state.names == ("x", "y", "vx", "vy")
    (observed,) = host.begin([task])
    np.testing.assert_array_equal(observed.sim_state, task.start)
