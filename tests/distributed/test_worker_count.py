"""How many training workers a cluster has room for; without a Ray."""

import threading

import pytest

from jepawm.config import RunConfig, ScalingConfig, TrainConfig
from jepawm.distributed import stopping, worker_count
from jepawm.distributed.worker_count import ElasticWorkers, number_of_workers, possible_counts
from jepawm.errors import ConfigError
from jepawm.interrupts import StopRequest
from jepawm.runs.placement import Claim

ELASTIC = ScalingConfig(num_workers=8, min_workers=2)
ONE_CPU, ONE_GPU = Claim(0.5), Claim(0.5, 1.0)


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"), [(4, 0, 8), (3.9, 0, 4), (1, 0, 2), (0, 0, 2), (4, 5, 4), (4, 1, 2)]
)
def test_the_largest_count_that_divides_the_batch_and_fits_is_taken(cpus, gpus, expected):
    train = TrainConfig(batch_size=128)
    assert possible_counts(ELASTIC, train) == [2, 4, 8]
    room = {"CPU": float(cpus), "GPU": float(gpus)}
    assert number_of_workers(ELASTIC, train, room, ONE_GPU if gpus else ONE_CPU) == expected


def test_micro_batches_are_part_of_the_sum():
    assert possible_counts(ELASTIC, TrainConfig(batch_size=24, micro_batches=2)) == [2, 3, 4, 6]


def test_what_others_use_is_no_room_and_lost_nodes_have_none(monkeypatch):
    def node(name, cpus):
        return {"NodeID": name, "Resources": {"CPU": cpus}, "Labels": {"zone": name}}

    nodes = [node("a", 2.0), node("b", 2.0)]
    gone: list[str] = []
    monkeypatch.setattr(worker_count.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(worker_count, "is_gone", lambda node: node["NodeID"] in gone)
    free = {"a": {"CPU": 2.0}, "b": {"CPU": 1.0}}
    monkeypatch.setattr(worker_count, "available_resources_per_node", lambda: free)
    workers = ElasticWorkers(ELASTIC, TrainConfig(batch_size=24), ONE_CPU)
    assert workers.choose() == 6
    gone.append("b")
    assert workers.choose() == 2
    gone.clear()
    nodes.append(node("c", 1.0))
    assert workers.choose() == 8
    # Nodes without the labels that are asked for are no room.
    assert worker_count.live_resources(Claim(0.5, selector={"zone": "!in(a,c)"})) == {"CPU": 2.0}
    # What others use on them takes nothing from those that are left.
    assert worker_count.used_by_others(Claim(0.5, selector={"zone": "a"})) == {"CPU": 0.0}
    assert worker_count.used_by_others(Claim(0.5, selector={"zone": "b"})) == {"CPU": 1.0}
    fixed = ElasticWorkers(ScalingConfig(num_workers=5), TrainConfig(batch_size=25), ONE_CPU)
    assert not fixed.is_elastic
    assert fixed.choose() == 5


def test_a_training_that_could_be_wider_is_asked_to_end_once(monkeypatch):
    ended, looks, asked = threading.Event(), [], []

    class Signal:
        class ask:
            remote = staticmethod(lambda: asked.append(1) or ended.set())

    def has_more_room():
        looks.append(1)
        return len(looks) == 3

    monkeypatch.setattr(stopping, "LOOK_FOR_ROOM_EVERY_S", 0.0)
    monkeypatch.setattr(stopping, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(stopping.ray, "get", lambda _: None)
    found = stopping.run_and_pass_on(lambda: ended.wait(60), StopRequest(), Signal, has_more_room=has_more_room)
    assert found
    assert (len(looks), len(asked)) == (3, 1)


def test_ranges_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"scaling\.min_workers 3 is more than scaling\.num_workers 2"):
        ScalingConfig(num_workers=2, min_workers=3)
    with pytest.raises(ConfigError, match=r"found 128 windows for 3 workers"):
        RunConfig(train=TrainConfig(batch_size=128), scaling=ScalingConfig(num_workers=4, min_workers=3))
