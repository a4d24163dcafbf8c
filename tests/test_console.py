"""What a run says in a log, where no terminal redraws a bar."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console as RichConsole

from jepawm.console import Console, Rate


def test_a_stage_is_announced_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for _ in range(2):
        with console.stage("train", "40 steps [of 3]"):
            console.say("   [bold]not markup[/bold]")
    told = capsys.readouterr().out
    assert told.count("== train 40 steps [of 3]") == 2
    assert "[bold]not markup[/bold]" in told
    assert set(console.wall_s) == {"train"}
    assert console.wall_s["train"] > 0


def test_a_stage_that_fails_is_timed_too(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    with pytest.raises(ZeroDivisionError), console.stage("collect", ""):
        raise ZeroDivisionError
    assert "collect" in console.wall_s
    assert capsys.readouterr().out == ""


def test_in_a_log_a_bar_is_one_line_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.bar("episodes", 3) as advance:
        for done in (1, 2, 3, 3):
            advance(done, "fine")
    assert capsys.readouterr().out.strip() == "episodes 3/3 fine"


def test_a_bar_may_learn_its_length_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().bar("episodes", 0) as advance:
        advance(1, total=2)
        advance(2, total=2)
    assert capsys.readouterr().out.strip() == "episodes 2/2"


def test_in_a_log_the_roles_end_the_line_of_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    words = {"train": "5 windows/s", "planners": ""}
    with console.role("train", lambda: words["train"]), console.role("planners", lambda: words["planners"]):
        with console.bar("train steps", 2) as advance:
            advance(1)
            words["train"] = "7 windows/s"
            advance(2)
    with console.bar("episodes", 1) as advance:
        advance(1)
    told = [line.strip() for line in capsys.readouterr().out.splitlines()]
    # A role with nothing to say is left out, and one that has ended says nothing.
    assert told == ["train steps 2/2; train: 7 windows/s", "episodes 1/1"]


def test_on_a_terminal_each_role_has_a_line_of_its_own() -> None:
    console, screen = Console(), io.StringIO()
    console._rich = RichConsole(file=screen, force_terminal=True, width=100, color_system=None)
    with console.role("train", lambda: "5 windows/s"), console.role("data", lambda: "waits [3 %]"):
        with console.bar("train steps", 2) as advance:
            advance(2)
    lines = [line.split("\x1b")[0].strip() for line in screen.getvalue().splitlines()]
    assert "train        5 windows/s" in lines
    assert "data         waits [3 %]" in lines


def test_a_rate_looks_back_some_seconds() -> None:
    moments: Iterator[float] = iter([0.0, 10.0, 20.0, 40.0])
    count = {"steps": 0.0}
    rate = Rate(lambda: count["steps"], clock=lambda: next(moments))
    count["steps"] = 100.0
    assert rate.per_s() == 10.0
    count["steps"] = 300.0
    assert rate.per_s() == 15.0
    # What was fast long ago does not make it fast now.
    assert rate.per_s() == 0.0
