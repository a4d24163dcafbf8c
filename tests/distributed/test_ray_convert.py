"""Ray reads what one process reads, and a worker that dies costs nothing that was read."""

import os

import numpy as np
import pytest
from converted import Counting, same
from published_datasets import PUSHT_LENGTHS, dino_wm_pusht, dino_wm_wall

from jepawm.data import EpisodeDataset
from jepawm.data.importers import (
    ImportOptions,
    import_episodes,
    open_source,
)
from jepawm.data.importers.dino_wm import DinoWMPushT
from jepawm.errors import DataError
from jepawm.types import Episode

pytest.importorskip("av")
pytestmark = pytest.mark.ray


@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_a_worker_that_dies_over_an_episode_ends_the_conversion_and_costs_nothing_that_was_read(tmp_path, monkeypatch):
    from jepawm.distributed import convert
    from jepawm.distributed.convert import read_on_ray

    monkeypatch.setattr(convert, "MAX_RETRIES", 1)

    # Defined here, so that workers, which cannot import this file, receive the class itself.
    class Crashing(DinoWMPushT):
        """A source whose last episode ends the process that reads it."""

        def read(self, number: int) -> Episode:
            if number == 2:
                os._exit(3)
            return super().read(number)

    dino_wm_pusht(tmp_path / "pusht_noise")
    source = Crashing(tmp_path / "pusht_noise", ImportOptions())
    with pytest.raises(DataError, match=r"d: could not be finished: a Ray worker died 2 times .*; the same command"):
        import_episodes(source, tmp_path / "d", reader=read_on_ray)
    assert not (tmp_path / "d").exists()
    reader = Counting()
    import_episodes(open_source(tmp_path / "pusht_noise"), tmp_path / "d", reader=reader)
    # Ray decides how many of the other episodes were read before the crash.
    assert 2 in reader.read
    assert len(EpisodeDataset(tmp_path / "d")) == len(PUSHT_LENGTHS)


@pytest.mark.usefixtures("ray_local")
def test_ray_reads_what_one_process_reads(tmp_path, monkeypatch):
    from jepawm.distributed import cluster_check
    from jepawm.distributed.convert import read_on_ray
    from jepawm.runs.runtime import reading_on_ray

    checked = []
    monkeypatch.setattr(cluster_check, "check_cluster", checked.append)
    place = tmp_path / "pusht_noise"
    dino_wm_pusht(place)
    assert import_episodes(open_source(place), tmp_path / "serial") == len(PUSHT_LENGTHS)
    with reading_on_ray(place) as reader:
        # Every node has to see the recordings; the driver alone writes.
        assert [(folders.written, folders.read) for folders in checked] == [({}, {"SOURCE": str(place)})]
        assert import_episodes(open_source(place), tmp_path / "ray", reader=reader) == len(PUSHT_LENGTHS)
    same(tmp_path / "serial", tmp_path / "ray")
    dino_wm_wall(tmp_path / "wall_single", lambda c: c["obses/episode_001.pth"].__setitem__((3, 0, 0, 0), np.nan))
    with pytest.raises(DataError, match=r"episode_001\.pth: frame 3 holds NaN.* --leave-out-bad"):
        import_episodes(open_source(tmp_path / "wall_single"), tmp_path / "wall", reader=read_on_ray)
    assert not (tmp_path / "wall").exists()
    assert not (tmp_path / ".wall.importing").exists()
    options = ImportOptions(leave_out_bad=True)
    source = open_source(tmp_path / "wall_single", options=options)
    assert import_episodes(source, tmp_path / "wall", reader=read_on_ray) == 1
    (left_out,) = EpisodeDataset(tmp_path / "wall").spec.source["left_out_episodes"]
    assert (left_out["episode"], "frame 3 holds NaN" in left_out["reason"]) == (1, True)
