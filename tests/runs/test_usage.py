"""Hours and cost of a run: by a clock that the test turns."""

from pathlib import Path

import pytest

from jepawm.config.tracking import TrackingConfig
from jepawm.errors import BudgetError, DataError
from jepawm.runs.usage import (
    THIS_PROCESS,
    TRAINING_WORKERS,
    USAGE_FILE,
    Hours,
    RunUsage,
    Share,
    UsageMeter,
    earlier_usage,
    usage_lines,
    usage_shown,
)

WORKERS = Share(TRAINING_WORKERS, processes=2, cpus=4.0, gpus=1.0)
HOSTS = Share("environment hosts", processes=8, cpus=0.5)


class Clock:
    def __init__(self) -> None:
        self.hours = 0.0

    def __call__(self) -> float:
        return 3600 * self.hours


def test_hours_are_those_of_what_is_held_while_it_is_held() -> None:
    clock = Clock()
    meter = UsageMeter(clock)
    with meter.holding(WORKERS), meter.holding(None):
        clock.hours = 1.0
        with meter.holding(HOSTS):
            assert meter.held() == [WORKERS, HOSTS]
            clock.hours = 1.5
            # What is still held counts as well.
            assert meter.total().roles == {
                TRAINING_WORKERS: Hours(process=3.0, cpu=12.0, gpu=3.0),
                "environment hosts": Hours(process=4.0, cpu=2.0, gpu=0.0),
            }
    clock.hours = 9.0
    total = meter.total()
    assert total.total == Hours(process=7.0, cpu=14.0, gpu=3.0)
    assert meter.held() == []
    assert total.limited == (3.0, "GPU-hours")
    assert total.cost(TrackingConfig()) is None
    assert total.cost(TrackingConfig(gpu_hour_price=2.0)) == 6.0
    priced = TrackingConfig(gpu_hour_price=2.0, cpu_hour_price=0.25, currency="EUR")
    assert total.cost(priced) == 9.5
    assert total.numbers(priced) == {"gpu_hours": 3.0, "cpu_hours": 14.0, "cost": 9.5}
    used, cost = usage_lines(total, priced)
    assert used == (
        "used        3 GPU-hours, 14 CPU-hours; process-hours: environment hosts 4, training workers 3 (3 of GPUs)"
    )
    assert cost.startswith("cost        about 9.50 EUR at 2 per GPU-hour and 0.25 per CPU-hour; idle")
    assert len(usage_lines(total, TrackingConfig())) == 1


def test_a_command_says_what_it_alone_has_used() -> None:
    clock, said = Clock(), list[str]()
    meter = UsageMeter(clock)
    with meter.holding(WORKERS):
        clock.hours = 1.0
    with usage_shown(meter, Share("driver", 1, cpus=1.0), TrackingConfig(cpu_hour_price=0.5), said.append):
        with meter.holding(HOSTS):
            clock.hours = 1.5
    # The workers of an earlier command are not among them: half an hour of the driver, and of 8 hosts.
    assert said[0] == "used        0 GPU-hours, 2.5 CPU-hours; process-hours: environment hosts 4, driver 0.5"
    assert said[1].startswith("cost        about 1.25 USD at 0.5 per CPU-hour")
    # A command that fails says its error and nothing else.
    with pytest.raises(DataError), usage_shown(meter, None, TrackingConfig(), said.append):
        raise DataError("no episodes")
    assert len(said) == 2


def test_what_waits_for_a_node_holds_nothing_yet() -> None:
    clock = Clock()
    meter = UsageMeter(clock)
    with meter.holding(WORKERS) as begin_again:
        clock.hours = 2.0
        begin_again()
        clock.hours = 3.0
    assert meter.total().total.gpu == 2.0


def test_without_a_gpu_the_hours_of_what_trains_are_limited() -> None:
    clock = Clock()
    meter = UsageMeter(clock)
    with meter.holding(Share("driver", 1, 1.0)), meter.holding(HOSTS):
        clock.hours = 1.0
    with meter.holding(Share(TRAINING_WORKERS, 2, 4.0)):
        clock.hours = 1.5
    assert meter.total().limited == (1.0, "worker-hours (no GPU is used)")
    with meter.holding(Share(THIS_PROCESS, 1, 2.0)):
        clock.hours = 2.0
    assert meter.total().limited[0] == 1.5


def test_a_continued_run_counts_what_its_earlier_parts_used(tmp_path: Path) -> None:
    clock = Clock()
    meter = UsageMeter(clock)
    with meter.holding(WORKERS):
        # Of another run in the same process.
        clock.hours = 5.0
    first = RunUsage(str(tmp_path), meter, max_gpu_hours=3.0)
    assert not first.spent()
    with meter.holding(WORKERS):
        clock.hours = 6.0
        first.save()
        # A part that is killed after it has saved twice counts once, up to the last save.
        first.save()
        clock.hours = 7.0
    second = RunUsage(str(tmp_path), UsageMeter(clock), max_gpu_hours=3.0)
    assert second.total().total.gpu == 2.0
    assert earlier_usage(str(tmp_path)) == second.total()
    meter = UsageMeter(clock)
    third = RunUsage(str(tmp_path), meter, max_gpu_hours=3.0)
    with meter.holding(WORKERS):
        clock.hours = 7.25
        assert not third.spent()
        third.check(lambda: "unused")
        clock.hours = 7.5
        assert third.spent()
        with pytest.raises(BudgetError) as ended:
            third.check(lambda: "the same command goes on from train step 7 of 9")
    assert str(ended.value) == (
        "the run has used 3 GPU-hours, and --max-gpu-hours is 3; with a larger one, the same command goes on from "
        "train step 7 of 9"
    )
    assert ended.value.exit_code == 3
    assert not RunUsage(str(tmp_path), meter, max_gpu_hours=None).spent()


@pytest.mark.parametrize("text", ["{}", '{"parts": [{"driver": {"process_hours": 1}}]}', "nonsense"])
def test_damaged_usage_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / USAGE_FILE).write_text(text)
    with pytest.raises(DataError, match=rf"{USAGE_FILE}: damaged usage .*delete the file"):
        RunUsage(str(tmp_path), UsageMeter(), None)
    assert earlier_usage(str(tmp_path / "elsewhere")) is None
