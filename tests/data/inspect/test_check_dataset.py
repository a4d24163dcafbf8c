"""`check_dataset` names every violation, the command line prints them, and a contact sheet can be drawn."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jepawm.cli import data as data_cli
from jepawm.data import EpisodeDataset, check_dataset, contact_sheet
from jepawm.errors import DataError


@pytest.fixture
def dataset(write: Callable[..., EpisodeDataset]) -> EpisodeDataset:
    return write(codec="png")


def messages(path: Path, **options: bool) -> list[str]:
    return [str(violation) for violation in check_dataset(path, **options)]


def edit_meta(dataset: EpisodeDataset, **changes: Any) -> None:
    path = dataset.path / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Rewrites a Parquet file with other rows."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path, row_group_size=1)


def put(row: int, column: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[row][column] = value(rows[row][column]) if callable(value) else value

    return change


def with_nan(values: list[float]) -> list[float]:
    return [values[0], float("nan"), *values[2:]]


def test_a_good_dataset_has_no_violations(dataset):
    assert messages(dataset.path) == []


def test_missing_folder_and_meta(tmp_path):
    assert "no such dataset folder" in messages(tmp_path / "none")[0]
    assert messages(tmp_path) == ["meta.json: is missing"]
    (tmp_path / "meta.json").write_text("{")
    assert "not valid JSON" in messages(tmp_path)[0]
    (tmp_path / "meta.json").write_text("[]")
    assert "expected a JSON object, found list" in messages(tmp_path)[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"name": 3, "status": None},
            ["key 'status' is None, expected str", "key 'name' is 3, expected str"],
        ),
        ({"status": "done"}, ["key 'status' is 'done'"]),
        ({"control_hz": 0}, ["key 'control_hz' is 0"]),
        ({"format_version": 7}, ["format_version 7 is newer"]),
        ({"action": {"dim": 2}}, ["key 'action' cannot be read: KeyError"]),
        ({"statistics": None}, ["key 'statistics' is null in a complete dataset"]),
        (
            {"num_episodes": 9, "num_frames": 2},
            ["num_episodes is 9, the shards hold 8", "num_frames is 2, the sh"],
        ),
        ({"extra": 1}, ["unknown key 'extra'"]),
        ({"status": "writing"}, ["status is 'writing'"]),
    ],
)
def test_meta_violations(dataset, changes, expected):
    edit_meta(dataset, **changes)
    found = messages(dataset.path)
    assert len(found) == len(expected)
    for text, line in zip(expected, found, strict=True):
        assert line.startswith("meta.json: ")
        assert text in line


def test_statistics_violations(dataset):
    statistics = dataset.statistics.to_dict()
    statistics["action_mean"][1] += 0.1
    statistics["proprio_std"] = [1.0]
    edit_meta(dataset, statistics=statistics)
    found = messages(dataset.path)
    assert "statistics.action_mean is" in found[0]
    assert "the data give" in found[0]
    assert "statistics.proprio_std has 1 numbers, expected 3" in found[1]


# The toy dataset's first shard: episode 10 (9 frames, rows 0 and 1), 13 (40, rows 2 to 6), 16 (17).
SHARD_FAULTS: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str]] = {
    "chunk gap": (lambda rows: rows.pop(4), r"row 4: episode 13: chunk 3, expected chunk 2"),
    "first chunk lost": (lambda rows: rows.pop(2), r"row 2: episode 13: chunk 1, expected chunk 0"),
    "last chunk lost": (lambda rows: rows.pop(6), r"row 5: episode 13 ends with chunk 3, expected 5 chunks"),
    "twice": (
        lambda rows: rows.extend(rows[0:2]),
        r"row \d+: episode 10 is there twice, first in shards/\S+ row 0",
    ),
    "first_frame": (put(3, "first_frame", 9), r"row 3: first_frame is 9, expected 8"),
    "num_chunks": (put(3, "num_chunks", 6), r"row 3: num_chunks is 6, the chunk before says 5"),
    "num_frames": (put(3, "num_frames", 7), r"row 3: num_frames is 7, expected 8"),
    "negative id": (put(0, "episode_id", -1), r"row 0: episode_id is -1"),
    "ragged actions": (
        put(2, "actions", lambda v: v[:-1]),
        r"row 2: 'actions' holds 15 numbers, expected 8 x 2",
    ),
    "action too many": (
        put(6, "actions", lambda v: [*v, 1.0, 2.0]),
        r"row 6: 'actions' .* 16 numbers, expected 7 x 2",
    ),
    "wrong width": (
        put(2, "proprio", lambda v: v[:16]),
        r"row 2: 'proprio' holds 16 numbers, expected 8 x 3",
    ),
    "NaN": (put(3, "proprio", with_nan), r"row 3: 'proprio' holds NaN or infinity at frame 8"),
    "NaN in sim_state": (
        put(3, "sim_state", with_nan),
        r"row 3: 'sim_state' holds NaN or infinity at frame 8",
    ),
    "frame lost": (put(2, "frames", lambda v: v[:-1]), r"row 2: 'frames' holds 7 frames, num_frames is 8"),
    "undecodable": (
        put(3, "frames", lambda v: [*v[:2], b"junk", *v[3:]]),
        r"row 3: frame 10: 4 bytes are not a read",
    ),
    "info": (put(0, "info", "{"), r"row 0: 'info' is not valid JSON"),
    "info list": (put(0, "info", "[1]"), r"row 0: 'info' is list, expected a JSON object"),
    "null": (put(0, "actions", None), r"row 0: a column holds nulls"),
}


@pytest.mark.parametrize("fault", SHARD_FAULTS)
def test_shard_violations(dataset, fault):
    change, expected = SHARD_FAULTS[fault]
    edit_rows(dataset.shard_path(0), change)
    found = "\n".join(messages(dataset.path))
    assert re.search(r"shards/shard-00000\.parquet " + expected, found), found


def test_frame_of_another_size(dataset):
    from jepawm.data.codecs import encode_frames

    small = encode_frames(np.zeros((1, 8, 8, 3), np.uint8), "png")[0]
    edit_rows(dataset.shard_path(0), put(2, "frames", lambda v: [small, *v[1:]]))
    assert messages(dataset.path) == ["shards/shard-00000.parquet row 2: frame 0: the frame is 8x8, expected 16x20"]
    assert messages(dataset.path, decode=False) == []


def test_every_violation_is_named_not_only_the_first(dataset):
    edit_rows(dataset.shard_path(0), put(3, "proprio", with_nan))
    edit_rows(dataset.shard_path(0), put(3, "frames", lambda v: [b"junk", *v[1:-1], b"more junk"]))
    edit_rows(dataset.shard_path(1), put(0, "first_frame", 5))
    edit_meta(dataset, num_frames=1)
    (dataset.path / "shards" / "shard-00009.parquet.tmp").write_bytes(b"")
    found = messages(dataset.path)
    assert len(found) == 5
    assert found[0] == ("shards/shard-00009.parquet.tmp: a temporary file that a killed writer left; delete it")


def test_index_violations(dataset):
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["num_frames"] = 8
        rows[1]["first_row"] = 5
        rows[2]["episode_id"] = 77
        rows.append(rows[3])

    edit_rows(dataset.path / "episodes.parquet", change)
    found = messages(dataset.path)
    assert found == [
        "episodes.parquet row 0: episode 10: num_frames is 8, the shards say 9",
        "episodes.parquet row 1: episode 13: first_row is 5, the shards say 2",
        "episodes.parquet row 2: episode 77 is listed and in no shard",
        "episodes.parquet row 8: episode 19 is listed twice",
        "shards/shard-00000.parquet row 7: episode 16 is not listed in episodes.parquet",
    ]
    (dataset.path / "episodes.parquet").write_bytes(b"x")
    assert "cannot be read" in messages(dataset.path)[0]
    (dataset.path / "episodes.parquet").unlink()
    assert "the episode index is missing" in messages(dataset.path)[0]


def test_whole_files(dataset):
    shard = dataset.shard_path(1)
    content = shard.read_bytes()
    shard.write_bytes(content[:-50])
    assert "shards/shard-00001.parquet: shard is truncated or not Parquet" in messages(dataset.path)[0]
    shard.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    assert "shards/shard-00001.parquet row 0: " in messages(dataset.path)[0]
    shard.unlink()
    assert messages(dataset.path)[0].startswith("shards/shard-00001.parquet: shard is missing")
    table = pq.read_table(dataset.shard_path(0))
    pq.write_table(table.drop_columns(["proprio"]), dataset.shard_path(0))
    assert any("column 'proprio' is missing" in line for line in messages(dataset.path))
    double = table.set_column(
        table.column_names.index("actions"), "actions", table["actions"].cast(pa.list_(pa.float64()))
    )
    pq.write_table(double, dataset.shard_path(0))
    assert any("column 'actions' is list<element: double>, expected list<" in m for m in messages(dataset.path))
    for path in (dataset.path / "shards").iterdir():
        path.unlink()
    assert "shards: there are no shards" in messages(dataset.path)


# ---- the picture and the command line


def test_contact_sheet(dataset, tmp_path):
    import cv2

    output = contact_sheet(dataset.path, tmp_path / "pictures" / "sheet.png", episodes=[13, 10], frames=5)
    sheet = cv2.imread(str(output))
    # 20x16 px frames are drawn five times as large.
    assert sheet.shape == (20 + 2 * (16 + 80 + 64 + 15 + 4), 5 * 100, 3)
    expected = dataset.read_episode(13).pixels[0].repeat(5, 0).repeat(5, 1)
    np.testing.assert_array_equal(sheet[36:116, :100, ::-1], expected)
    with pytest.raises(DataError, match="nothing to draw"):
        contact_sheet(dataset.path, output, episodes=[])
    with pytest.raises(DataError, match="there is no episode 4"):
        contact_sheet(dataset.path, output, episodes=[4])


def test_command_line(dataset, tmp_path, capsys):
    assert data_cli.main(["check", str(dataset.path)]) == 0
    assert "ok, 8 episodes, 180 frames in 3 shard(s)" in capsys.readouterr().out
    picture = tmp_path / "s.png"
    assert data_cli.main(["show", str(dataset.path), "--output", str(picture), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(picture)
    assert picture.is_file()
    edit_meta(dataset, num_frames=1, num_episodes=1)
    assert data_cli.main(["check", str(dataset.path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("2 violation(s)")
    assert data_cli.main(["show", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit) as stop:
        data_cli.main(["import", "pusht-zap", "a", "b"])
    assert stop.value.code == 2
