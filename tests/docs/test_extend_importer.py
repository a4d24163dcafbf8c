"""What docs/extend/importer.md tells people to write and to type."""

import re
import shlex
import sys

import numpy as np
import pytest

from jepawm.cli import data as data_cli
from jepawm.data import EpisodeDataset
from jepawm.data.importers import FORMATS, ImportOptions, import_episodes, open_source
from jepawm.errors import DataError


@pytest.fixture
def page(repo):
    return (repo / "docs" / "extend" / "importer.md").read_text()


@pytest.fixture
def folder(page, tmp_path, monkeypatch):
    """A folder with the page's module and recordings of three episodes."""
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "npz_folder.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "recordings").mkdir()
    for number in range(3):
        write(tmp_path, number)
    yield tmp_path
    sys.modules.pop("npz_folder", None)


def write(folder, number, length=6, **changes):
    rng = np.random.default_rng(number)
    arrays = {
        "frames": rng.integers(0, 256, size=(length, 24, 32, 3)).astype(np.uint8),
        "actions": rng.uniform(-1, 1, size=(length, 4)).astype(np.float32),
        "joints": rng.normal(size=(length, 5)).astype(np.float32),
        "force": rng.normal(size=length),
    }
    arrays |= changes
    np.savez(folder / "recordings" / f"{number}.npz", **arrays)
    return arrays


def test_its_commands_run(page, folder, capsys):
    (block,) = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[:2] == ["jepawm", "data"]
        assert data_cli.main(words[2:]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "took pixels from frames; actions from actions; proprio from joints" in printed
    assert "left out force" in printed
    dataset = EpisodeDataset(folder / "my_dataset")
    assert (len(dataset), dataset.spec.control_hz, dataset.spec.pixels.shape) == (3, 10, (24, 24, 3))
    np.testing.assert_array_equal(dataset.read_episode(2).actions, write(folder, 2)["actions"][:-1])
    assert dataset.spec.source["importer"] == "npz-folder"


@pytest.mark.parametrize("number", [0, 1])
def test_a_bad_episode_can_be_left_out(folder, number):
    write(folder, number, joints=np.full((6, 5), np.nan))
    options = ImportOptions(control_hz=10)
    with pytest.raises(DataError, match=rf"{number}\.npz: 'joints': row 0 holds NaN or infinity; .* --leave-out-bad"):
        import_episodes(open_source("recordings", "npz_folder:NpzFolder", options), "d")
    options = ImportOptions(control_hz=10, leave_out_bad=True)
    (folder / "recordings/2.npz").write_bytes((folder / "recordings/2.npz").read_bytes()[:-300])
    with pytest.raises(DataError, match=r"2 of 3 episodes are bad"):
        import_episodes(open_source("recordings", "npz_folder:NpzFolder", options), "d")
    write(folder, 2)
    assert import_episodes(open_source("recordings", "npz_folder:NpzFolder", options), "d") == 2


def test_a_line_in_the_list_of_formats_makes_it_a_format(page, folder, monkeypatch):
    name, address = re.search(r'^    "(.+)": "(.+)",$', page, flags=re.MULTILINE).groups()
    assert address.startswith("jepawm.data.importers.")
    monkeypatch.setitem(FORMATS, name, "npz_folder:NpzFolder")
    # Recognised by its files.
    assert open_source(folder / "recordings", "auto", ImportOptions(control_hz=10)).name == name


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("npz_folder:Nothing", "format 'npz_folder:Nothing': the importer cannot be found"),
        ("no_such_module:Importer", "No module named 'no_such_module'"),
        ("npz_folder:Path", "Path is no EpisodeSource"),
        (":", "the importer cannot be found"),
        ("npz-foldr", "unknown format 'npz-foldr'.*MODULE:CLASS"),
    ],
)
def test_an_importer_that_is_not_there_is_named(folder, form, message):
    with pytest.raises(DataError, match=message):
        open_source("recordings", form)
