"""The last evaluations of a sweep take turns where there is not room for all; a wait counts where none of them runs."""

from types import SimpleNamespace

import pytest

from jepawm.config import RunConfig, ScalingConfig
from jepawm.config.tune import TuneConfig
from jepawm.distributed import tune as tune_module
from jepawm.distributed import waiting
from jepawm.distributed.tune import evaluate_again_on_ray
from jepawm.distributed.waiting import LOOK_EVERY_S
from jepawm.errors import PlacementError


class ScriptedRay:
    """Runs tasks of `seconds` each, `room` at once, from `opens_at` on; its clock goes on when somebody waits."""

    def __init__(self, *, room: int, seconds: float, opens_at: float = 0.0) -> None:
        self.room, self.seconds, self.opens_at, self.now = room, seconds, opens_at, 0.0
        self.asked: list[int] = []

    def monotonic(self) -> float:
        return self.now

    def remote(self, **options):
        return lambda work: SimpleNamespace(remote=self._ask)

    def _ask(self, number: int) -> int:
        self.asked.append(number)
        return len(self.asked) - 1

    def _start(self, task: int) -> float:
        return self.opens_at + task // self.room * self.seconds

    def pending(self, claim) -> int:
        return sum(self._start(task) > self.now for task in range(len(self.asked)))

    def wait(self, tasks, timeout):
        self.now += timeout
        done = [task for task in tasks if self._start(task) + self.seconds <= self.now]
        return done[:1], [task for task in tasks if task not in done[:1]]

    def get(self, tasks):
        return [f"final {self.asked[task]}" for task in tasks]


@pytest.fixture
def evaluate(monkeypatch):
    """Evaluates trials again on a scripted Ray."""
    monkeypatch.setattr(tune_module, "look_at_cluster", lambda **_: None)
    monkeypatch.setattr(tune_module, "startable_nodes", lambda: None)
    monkeypatch.setattr(tune_module, "gpus_of_trial", lambda *_, **__: 0.0)
    monkeypatch.setattr(waiting, "room_in_words", lambda: "0 of 2 CPUs are free")
    said: list[str] = []

    def evaluate(ray: ScriptedRay, numbers: list[int]):
        monkeypatch.setattr(tune_module, "ray", ray)
        monkeypatch.setattr(tune_module, "number_waiting", ray.pending)
        monkeypatch.setattr(waiting, "number_waiting", ray.pending)
        monkeypatch.setattr(waiting, "time", ray)
        config = RunConfig(scaling=ScalingConfig(placement_timeout_s=60))
        return evaluate_again_on_ray("sweep", config, TuneConfig(), numbers, said.append), said

    return evaluate


def test_evaluations_that_take_turns_are_not_given_up(evaluate):
    """The last one waits for 160 s, more than the limit of 60 s, and one of the others runs all the time."""
    found, said = evaluate(ScriptedRay(room=1, seconds=40.0), [7, 3, 5, 1, 2])
    assert found == ["final 7", "final 3", "final 5", "final 1", "final 2"]
    assert said == []


def test_a_wait_without_room_for_any_is_told_and_given_up(evaluate):
    ray = ScriptedRay(room=1, seconds=40.0, opens_at=1e9)
    late = r"3 of 3 final evaluations .* did not start within 60 s \(scaling.placement_timeout_s\): 0 of 2 CPUs"
    with pytest.raises(PlacementError, match=late):
        evaluate(ray, [7, 3, 5])
    assert 60.0 <= ray.now <= 60.0 + 2 * LOOK_EVERY_S


def test_a_wait_that_ends_in_time_is_told_once(evaluate):
    found, said = evaluate(ScriptedRay(room=2, seconds=40.0, opens_at=50.0), [7, 3, 5])
    assert found == ["final 7", "final 3", "final 5"]
    assert len(said) == 1
    assert "for room for 3 of 3 final evaluations" in said[0]
