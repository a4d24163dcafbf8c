"""The driver of all importers: it goes on after a kill, starts anew when the source changed."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

import pytest
from converted import Counting, same
from published_datasets import PUSHT_LENGTHS, dino_wm_pusht, dino_wm_wall

from jepawm.data import EpisodeDataset
from jepawm.data.importers import (
    FORMATS,
    EpisodeSource,
    ImportOptions,
    conversion,
    import_episodes,
    open_source,
    source_class,
)
from jepawm.data.importers.conversion import read_serially
from jepawm.data.writer import WriterBusyError
from jepawm.errors import DataError

pytest.importorskip("av")


def killed_after(episodes: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done == episodes:
            raise KeyboardInterrupt

    return progress


def test_after_a_kill_only_the_missing_episodes_are_read(tmp_path):
    root = tmp_path / "pusht_noise"
    dino_wm_pusht(root)
    import_episodes(open_source(root), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        import_episodes(open_source(root), tmp_path / "d", progress=killed_after(2))
    assert not (tmp_path / "d").exists()
    assert (tmp_path / ".d.importing").is_dir()
    reader = Counting()
    seen: list[tuple[int, int]] = []
    count = import_episodes(
        open_source(root), tmp_path / "d", reader=reader, progress=lambda done, total: seen.append((done, total))
    )
    assert count == 3
    assert reader.read == [2]
    assert seen == [(2, 3), (3, 3)]
    assert not (tmp_path / ".d.importing").exists()
    same(tmp_path / "d", tmp_path / "whole")


def test_a_source_that_changed_is_read_anew(tmp_path):
    root = tmp_path / "pusht_noise"
    dino_wm_pusht(root)
    with pytest.raises(KeyboardInterrupt):
        import_episodes(open_source(root), tmp_path / "d", progress=killed_after(2))
    states = root / "train" / "states.pth"
    dino_wm_pusht(root, lambda c: c["states.pth"].__setitem__((0, 0, 0), 123.0))
    # Whatever the clock of this file system can tell apart.
    os.utime(states, ns=(1, 1))
    reader = Counting()
    import_episodes(open_source(root), tmp_path / "d", reader=reader)
    assert reader.read == [0, 1, 2]
    assert EpisodeDataset(tmp_path / "d").read_column("sim_state", 0)[0, 0] == 123.0


def test_an_error_half_way_leaves_nothing(tmp_path):
    root = tmp_path / "pusht_noise"
    dino_wm_pusht(root, lambda c: c.pop("obses/episode_002.mp4"))
    seen: list[int] = []
    with pytest.raises(DataError, match=r"episode_002\.mp4: no such file"):
        import_episodes(open_source(root), tmp_path / "d", progress=lambda done, total: seen.append(done))
    # Two episodes were written before it.
    assert seen == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["pusht_noise"]


def interrupted_by(action: Any) -> Any:
    """A reader that does something else before its last episode."""

    def read(source: EpisodeSource, codec: str, numbers: Sequence[int]) -> Any:
        for number in numbers:
            if number == numbers[-1]:
                action()
            yield from read_serially(source, codec, [number])

    return read


@pytest.mark.parametrize("other", ["the same source", "another source"])
def test_a_second_conversion_into_the_same_place_is_refused_and_harms_nothing(tmp_path, other):
    dino_wm_pusht(tmp_path / "pusht_noise")
    dino_wm_wall(tmp_path / "wall_single")
    second = tmp_path / ("pusht_noise" if other == "the same source" else "wall_single")
    refusals = []

    def convert_too() -> None:
        with pytest.raises(WriterBusyError, match=r"d: another process is converting into it; wait for it"):
            import_episodes(open_source(second), tmp_path / "d")
        refusals.append(second)

    source = open_source(tmp_path / "pusht_noise")
    assert import_episodes(source, tmp_path / "d", reader=interrupted_by(convert_too)) == len(PUSHT_LENGTHS)
    assert refusals == [second]
    import_episodes(source, tmp_path / "alone")
    same(tmp_path / "d", tmp_path / "alone")
    assert {path.name for path in tmp_path.iterdir()} == {"pusht_noise", "wall_single", "d", "alone"}


def test_a_full_disk_costs_nothing_that_was_read(tmp_path):
    dino_wm_pusht(tmp_path / "pusht_noise")
    source = open_source(tmp_path / "pusht_noise")

    def fill_the_disk() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"d: could not be finished: .*No space left.*; the same command goes on with"):
        import_episodes(source, tmp_path / "d", reader=interrupted_by(fill_the_disk))
    assert not (tmp_path / "d").exists()
    reader = Counting()
    import_episodes(source, tmp_path / "d", reader=reader)
    assert reader.read == [2]
    import_episodes(source, tmp_path / "alone")
    same(tmp_path / "d", tmp_path / "alone")


def test_a_disk_that_cannot_hold_the_rest_ends_a_conversion_early(tmp_path, monkeypatch):
    dino_wm_pusht(tmp_path / "pusht_noise")
    source = open_source(tmp_path / "pusht_noise")
    monkeypatch.setattr(conversion, "EPISODES_BEFORE_ESTIMATE", 1)
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _path: free._replace(free=10))
    message = r"about 0.00 GiB are still to be written, as the first 1 episodes take 0.00 GiB, and 0.00 GiB are free"
    with pytest.raises(DataError, match=message):
        import_episodes(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()
    monkeypatch.undo()
    import_episodes(source, tmp_path / "d")
    import_episodes(source, tmp_path / "alone")
    same(tmp_path / "d", tmp_path / "alone")


def test_a_destination_that_cannot_be_is_refused_by_name(tmp_path):
    dino_wm_pusht(tmp_path / "pusht_noise")
    source = open_source(tmp_path / "pusht_noise")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, message in (
        ("file", "file: already exists"),
        ("link", "link: already exists"),
        ("file/d", "file/d: could not be finished: .*(exists|Not a directory)"),
    ):
        with pytest.raises(DataError, match=message):
            import_episodes(source, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"pusht_noise", "file", "link"}


def test_a_link_to_nothing_beside_the_data_does_not_matter(tmp_path):
    root = tmp_path / "pusht_noise"
    dino_wm_pusht(root)
    (root / "notes").symlink_to(tmp_path / "nowhere")
    assert import_episodes(open_source(root), tmp_path / "d") == len(PUSHT_LENGTHS)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(DataError, match=f"control_hz must be above 0 and finite, found {rate}"):
        ImportOptions(control_hz=rate)


def test_every_format_says_what_it_is():
    names = [source_class(form).name for form in FORMATS]
    assert names == list(FORMATS)
    assert all(source_class(form).about for form in FORMATS)
