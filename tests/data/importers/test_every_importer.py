"""What holds for every importer: it says what it takes and leaves out, and one bad episode can be left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from every_format import BAD, SOURCES, Source

from jepawm.cli import data as data_cli
from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import FORMATS, ImportOptions, import_episodes, open_source
from jepawm.errors import DataError


@pytest.fixture(params=list(SOURCES))
def form(request):
    for package in SOURCES[request.param].packages:
        pytest.importorskip(package)
    return request.param


def write(form: str, folder: Path, *, bad: bool = False) -> Path:
    folder.mkdir()
    path = folder / SOURCES[form].path
    SOURCES[form].write(path, bad)
    return path


def convert(form: str, path: Path, destination: Path, **options) -> EpisodeDataset:
    import_episodes(open_source(path, form, ImportOptions(**SOURCES[form].options, **options)), destination)
    assert check_dataset(destination) == []
    return EpisodeDataset(destination)


def command_of(form: str, path: Path, destination: Path, *more: str) -> list[str]:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SOURCES[form].options.items()]
    return ["convert", str(path), str(destination), "--from", form, *options, *more]


def test_every_format_has_a_source_here():
    assert list(SOURCES) == list(FORMATS)
    assert all(isinstance(source, Source) for source in SOURCES.values())


def test_what_is_taken_is_recorded_and_printed(form, tmp_path, capsys):
    path = write(form, tmp_path / "in")
    assert data_cli.main(command_of(form, path, tmp_path / "d")) == 0
    printed = capsys.readouterr().out
    source = EpisodeDataset(tmp_path / "d").spec.source
    assert source["took"]["pixels"]
    assert ("actions" in source["took"]) == (form != "video-folder")
    assert {"took", "cast", "left_out", "assumed"} <= source.keys()
    for key, names in source["took"].items():
        assert f"{key} from {', '.join(names)}" in printed
    for name in source["left_out"]:
        assert name in printed
    assert not set(source["left_out"]) & {name for names in source["took"].values() for name in names}
    assert source["assumed"]
    assert "left_out_episodes" not in source
    assert "as bad" not in printed


def test_one_bad_episode_is_left_out_on_request_and_listed(form, tmp_path, capsys):
    whole = convert(form, write(form, tmp_path / "sound"), tmp_path / "whole")
    path = write(form, tmp_path / "in", bad=True)
    assert data_cli.main(command_of(form, path, tmp_path / "strict")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith("; to convert the other episodes, add --leave-out-bad\n")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "sound", "whole"]

    assert data_cli.main(command_of(form, path, tmp_path / "d", "--leave-out-bad")) == 0
    printed = capsys.readouterr().out
    dataset = EpisodeDataset(tmp_path / "d")
    assert dataset.episode_ids.tolist() == [number for number in whole.episode_ids.tolist() if number != BAD]
    for number in dataset.episode_ids.tolist():
        one, other = whole.read_episode(number), dataset.read_episode(number)
        for column in ("pixels", "actions", "proprio", "sim_state"):
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    (left_out,) = dataset.spec.source["left_out_episodes"]
    assert left_out["episode"] == BAD
    assert f"  episode {BAD}: {left_out['reason']}" in printed
    # The reason is what the strict conversion says.
    assert left_out["reason"] in error
    assert data_cli.main(["check", str(tmp_path / "d")]) == 0
    assert left_out["reason"] in capsys.readouterr().out


def test_a_bad_episode_that_is_not_asked_for_does_not_matter(form, tmp_path):
    dataset = convert(form, write(form, tmp_path / "in", bad=True), tmp_path / "d", max_episodes=BAD)
    assert dataset.episode_ids.tolist() == [0]
    assert json.loads((tmp_path / "d/meta.json").read_text())["source"]["episodes"] == BAD


def test_a_first_episode_that_is_bad_is_left_out_as_well(tmp_path):
    path = write("video-folder", tmp_path / "in")
    (path / "label0/b.mp4").write_bytes(b"")
    dataset = convert("video-folder", path, tmp_path / "d", leave_out_bad=True)
    assert dataset.episode_ids.tolist() == [1, 2]


def test_too_many_bad_episodes_are_refused(tmp_path):
    path = write("video-folder", tmp_path / "in")
    for name in ("label0/b.mp4", "label0/c.mp4"):
        (path / name).write_bytes(b"junk")
    with pytest.raises(DataError, match=r"2 of 3 episodes are bad, --most-bad 0\.1 accepts 1; .*episode 0: .*b\.mp4"):
        convert("video-folder", path, tmp_path / "d", leave_out_bad=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    dataset = convert("video-folder", path, tmp_path / "d", leave_out_bad=True, most_bad=0.7)
    assert dataset.episode_ids.tolist() == [2]
    (path / "label1/a.mp4").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"a\.mp4: not a video"):
        convert("video-folder", path, tmp_path / "e", leave_out_bad=True, most_bad=1.0)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(DataError, match="most_bad must be a share from 0 to 1"):
        ImportOptions(most_bad=share)


def test_what_is_left_out_survives_a_kill(tmp_path):
    path = write("video-folder", tmp_path / "in")
    (path / "label0/b.mp4").write_bytes(b"junk")

    def killed(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    options = ImportOptions(leave_out_bad=True)
    with pytest.raises(KeyboardInterrupt):
        import_episodes(open_source(path, "video-folder", options), tmp_path / "d", progress=killed)
    assert (tmp_path / ".d.importing").is_dir()
    assert import_episodes(open_source(path, "video-folder", options), tmp_path / "d") == 2
    assert [item["episode"] for item in EpisodeDataset(tmp_path / "d").spec.source["left_out_episodes"]] == [0]
