"""The file of metrics, and who follows it."""

import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from jepawm.errors import DataError
from jepawm.tracking import METRICS_FILE, MetricsFollower, MetricsWriter, read_metrics


def steps(path: Path) -> list[int]:
    return [record["train_step"] for record in read_metrics(str(path))]


def write_steps(writer: MetricsWriter, *train_steps: int) -> None:
    for step in train_steps:
        writer.write({"train_step": step, "train/loss": 1.0 / step})


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# -- the file --------------------------------------------------------------------------------------------------------


def test_records_come_back_with_their_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / METRICS_FILE
    before = time.time()
    write_steps(MetricsWriter(str(path)), 1, 2)
    records = read_metrics(str(path))
    assert [record["train/loss"] for record in records] == [1.0, 0.5]
    assert before <= records[0]["time_s"] <= records[1]["time_s"] <= time.time()


def test_a_new_run_begins_a_new_file_and_a_resume_drops_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    write_steps(MetricsWriter(str(path)), 10, 20, 30, 40)
    write_steps(MetricsWriter(str(path), resume_step=20), 25)
    assert steps(path) == [10, 20, 25]
    MetricsWriter(str(path))
    assert steps(path) == []
    MetricsWriter(str(tmp_path / "other.jsonl"), resume_step=20)
    assert steps(tmp_path / "other.jsonl") == []


def test_a_line_that_a_kill_cut_short_is_left_out_and_mended_by_a_resume(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    write_steps(MetricsWriter(str(path)), 10, 20)
    with open(path, "a") as file:
        file.write('{"train_step": 30, "tra')
    assert steps(path) == [10, 20]
    write_steps(MetricsWriter(str(path), resume_step=20), 30)
    assert steps(path) == [10, 20, 30]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text('{"train_step": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not JSON"):
        read_metrics(str(path))


# -- following -------------------------------------------------------------------------------------------------------


def test_a_follower_sees_every_record_once_and_in_order(tmp_path: Path) -> None:
    path, seen = tmp_path / METRICS_FILE, []
    with MetricsFollower(str(path), lambda record: seen.append(record["train_step"]), poll_s=0.01):
        writer = MetricsWriter(str(path))
        write_steps(writer, 1, 2)
        wait_for(lambda: seen == [1, 2])
        write_steps(writer, 3)
        # The last one is seen even if it was written just before the end.
    assert seen == [1, 2, 3]


def test_a_follower_goes_on_when_a_resume_rewrites_the_file(tmp_path: Path) -> None:
    path, seen = tmp_path / METRICS_FILE, []
    with MetricsFollower(str(path), lambda record: seen.append(record["train_step"]), poll_s=0.01):
        write_steps(MetricsWriter(str(path)), 10, 20, 30)
        wait_for(lambda: seen == [10, 20, 30])
        write_steps(MetricsWriter(str(path), resume_step=10), 20, 30, 40, 50)
    # The person who waits sees the steps that are made again, and the record at 10 once.
    assert seen == [10, 20, 30, 20, 30, 40, 50]


def test_a_follower_hands_on_later_steps_of_a_node_whose_clock_is_behind(tmp_path: Path) -> None:
    path, seen = tmp_path / METRICS_FILE, []
    path.write_text('{"train_step": 1, "time_s": 100.0}\n{"train_step": 2, "time_s": 50.0}\n')
    with MetricsFollower(str(path), lambda record: seen.append(record["train_step"]), poll_s=0.01):
        wait_for(lambda: seen == [1, 2])


def test_a_damaged_line_is_told_and_the_follower_goes_on(tmp_path: Path) -> None:
    path, seen = tmp_path / METRICS_FILE, []
    path.write_text('{"train_step": 1}\nnonsense\n[2]\n{"train_step": 3}\n')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with MetricsFollower(str(path), lambda record: seen.append(record["train_step"]), poll_s=0.01):
            wait_for(lambda: seen == [1, 3])
            with open(path, "a") as file:
                file.write('{"train_step": 4}\n')
    assert seen == [1, 3, 4]
    # Each is told once, however often the follower looks.
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "line that ends at byte 27 is not JSON" in told[0]
    assert "is no record but b'[2]'" in told[1]
