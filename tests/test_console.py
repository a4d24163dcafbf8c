"""What a run says in a log, where no terminal redraws a bar."""

import pytest

from jepawm.console import Console


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
