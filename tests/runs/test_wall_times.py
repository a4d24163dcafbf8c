"""Wall times of a run that was stopped and continued."""

from pathlib import Path

import pytest

from jepawm.console import Console
from jepawm.errors import DataError
from jepawm.files import write_json
from jepawm.runs.wall_times import WALL_TIMES_FILE, WallTimes


def part(run_dir: Path, **wall_s: float) -> WallTimes:
    console = Console(quiet=True)
    console.wall_s.update(wall_s)
    return WallTimes(str(run_dir), console)


def test_a_continued_run_counts_the_stages_before_the_stop(tmp_path: Path) -> None:
    first = part(tmp_path, collect=2.0, train=3.0)
    first.save()
    # A part that is killed after it has saved twice counts once.
    first.save()
    second = part(tmp_path, train=4.0, evaluate=1.0)
    assert second.num_parts == 2
    assert second.total_s() == {"collect": 2.0, "train": 7.0, "evaluate": 1.0}
    second.save()
    assert part(tmp_path).total_s() == second.total_s()


def test_the_stage_that_a_kill_stops_is_counted_up_to_the_last_save(tmp_path: Path) -> None:
    console = Console(quiet=True)
    with console.stage("train", ""):
        WallTimes(str(tmp_path), console).save()
        saved = part(tmp_path).total_s()["train"]
        assert 0 < saved <= console.elapsed_s()["train"]
    assert console.elapsed_s() == console.wall_s


def test_another_run_of_the_same_process_is_not_counted(tmp_path: Path) -> None:
    console = Console(quiet=True)
    console.wall_s.update(collect=2.0, train=3.0)
    second = WallTimes(str(tmp_path), console, before=console.elapsed_s())
    console.wall_s.update(train=7.0, evaluate=1.0)
    assert second.total_s() == {"train": 4.0, "evaluate": 1.0}


def test_damaged_times_are_refused_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / WALL_TIMES_FILE, {"partitions": []})
    with pytest.raises(DataError, match=f"{WALL_TIMES_FILE}: damaged wall times"):
        part(tmp_path)
