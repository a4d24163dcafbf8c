"""What docs/data.md tells people to type."""

import importlib.util
import re
import shlex

import numpy as np
import pytest

from jepawm.cli import data as data_cli
from jepawm.config.command_line import parse
from jepawm.data import EpisodeDataset, check_dataset


@pytest.fixture
def page(repo):
    return (repo / "docs" / "data.md").read_text()


@pytest.fixture
def written(page, tmp_path, monkeypatch):
    """A folder in which the page's first example has run."""
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0], {})
    return tmp_path


def commands(page, beginning):
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(beginning)]


def test_the_example_writes_a_dataset_that_keeps_the_contract(page, written):
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    body = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(body) <= 20
    assert check_dataset(written / "my_dataset") == []
    dataset = EpisodeDataset(written / "my_dataset")
    assert len(dataset) == 40
    episode = dataset.read_episode(7)
    # What the contract says of time: actions[t] leads from frame t to frame t + 1.
    free = (episode.proprio[1:] > 6).all(1) & (episode.proprio[1:] < 58).all(1)
    moved = np.diff(episode.proprio, axis=0)
    assert free[0]
    np.testing.assert_allclose(moved[0], episode.actions[0], atol=1e-4)
    x, y = episode.proprio[3].round().astype(int)
    assert episode.pixels[3, y, x].tolist() == [220, 60, 40]


def test_its_commands_run(page, written, capsys):
    run = commands(page, "jepawm data check") + commands(page, "jepawm data show") + commands(page, "jepawm data stats")
    assert len(run) == 4
    writes_videos = importlib.util.find_spec("av") is not None
    for words in run:
        if "--mp4" in words and not writes_videos:
            continue
        assert data_cli.main(words[2:]) == 0, capsys.readouterr().err
    assert (written / "sheet.png").is_file()
    assert (written / "stats.png").is_file()
    assert (written / "film.mp4").is_file() == writes_videos


def test_the_public_data_it_names_is_known(page, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    monkeypatch.setenv("JEPAWM_OFFLINE", "1")
    (words,) = commands(page, "jepawm data get")
    assert data_cli.main(words[2:]) == 1
    assert "offline (JEPAWM_OFFLINE is set), and 1 file(s) are not here" in capsys.readouterr().err
    (words,) = commands(page, "jepawm data list")
    assert data_cli.main(words[2:]) == 0


def test_the_command_that_trains_on_it(page, written, monkeypatch):
    from jepawm.console import Console
    from jepawm.runs.pipeline import run
    from jepawm.runs.runtime import make_runtime

    monkeypatch.setenv("JEPAWM_HOME", str(written / "home"))
    (words,) = commands(page, "python ray_jobs/train.py")
    short = ["--local", "--tracking.no-mlflow", "--train.num-train-steps", "2", "--train.batch-size", "4"]
    config, recipe = parse([*words[2:], *short, "--train.diagnostics-windows", "16"])
    assert (config.env.id, config.data.path) == ("none", "my_dataset")
    runtime = make_runtime(config)
    try:
        result = run(config, recipe, runtime, Console(quiet=True)).to_dict()
    finally:
        runtime.close()
    assert result["dataset"]["held_out_episodes"]
    assert list((written / "home").rglob("report.html"))
