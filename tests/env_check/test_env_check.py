"""`jepawm env check`: sound environments pass, and each way of being broken is found by name."""

import pytest

from jepawm.cli.main import main
from jepawm.config import EnvConfig
from jepawm.env_check import Finding, check_env

QUICK = "jepawm.env_check.speed.SECONDS"


def findings_of(env_id: str, *options: str) -> list[Finding]:
    findings, trial = check_env(EnvConfig(id=env_id, image_size=32, options=options))
    if trial is not None:
        trial.close()
    return findings


@pytest.fixture(autouse=True)
def no_time_is_spent_on_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QUICK, 0.01)


@pytest.mark.parametrize(
    "env_id", ["broken_envs:Dot", "envs:envs/Wall-v1", "foreign_envs:Buttons", "foreign_envs:PictureOnly"]
)
def test_sound_environments_pass(env_id: str) -> None:
    findings = findings_of(env_id)
    assert [str(finding) for finding in findings if finding.level == "FAIL"] == []
    names = {finding.name for finding in findings}
    assert {"made", "action space", "seeding", "reset to a state", "goal pictures", "second instance"} <= names
    assert {"success", "actions", "ends", "duplicates", "speed"} <= names


def test_environments_that_vary_pass() -> None:
    if "vary" not in EnvConfig.__dataclass_fields__:
        pytest.skip("no factors of variation")
    findings = findings_of("envs:envs/WallRandom-v1")
    assert [str(finding) for finding in findings if finding.level == "FAIL"] == []


def test_push_t_passes_with_a_remark() -> None:
    pytest.importorskip("pymunk")
    findings = findings_of("envs:envs/PushT-v1")
    assert [str(finding) for finding in findings if finding.level == "FAIL"] == []
    # As published, a state that is set settles for a hundredth of a second.
    assert any(f.name == "reset to a state" and "not to the bit" in f.text for f in findings)


def test_mujoco_environments_of_gymnasium_pass() -> None:
    pytest.importorskip("mujoco")
    findings = findings_of("Reacher-v5", "width=48", "height=48")
    assert [str(finding) for finding in findings if finding.level == "FAIL"] == []


@pytest.mark.parametrize(
    ("broken", "check", "text"),
    [
        ("CannotBeMade", "made", r"raised AttributeError: a bug in its constructor (broken_envs.py, line"),
        ("UnboundedActions", "action space", "expected bounds in every dimension"),
        ("DoubleActions", "action space", "dtype float32, found float64"),
        ("WrongSize", "observation space", "expected uint8 (32, 32, 3), as image_size says, found uint8 (48, 48, 3)"),
        ("NoName", "observation space", "proprio_names: expected one name for each of 2 numbers, found ('vx',)"),
        ("NoRate", "facts", "control_hz: expected env_steps per second, a number above 0, found 0"),
        ("FloatPixels", "observations", "the observation space says uint8 (32, 32, 3), found float32 (32, 32, 3)"),
        ("BeyondTheSpace", "observations", "proprio after 1 env_step(s): outside the bounds"),
        ("Crashes", "observations", "raised ZeroDivisionError: a bug of its own (broken_envs.py, line"),
        ("Black", "pictures", "frame 0 is all of one colour [0, 0, 0]"),
        ("Frozen", "pictures", "frames of an episode are all the same"),
        ("SameArray", "arrays", "pixels of an earlier step changed with a later one; return a copy"),
        ("Unseeded", "seeding", "equal seeds and actions differ; draw everything from self.np_random"),
        ("GlobalRandom", "seeding", "depend on the global random state"),
        ("OneStart", "seeding", "different seeds give the same start"),
        ("Remembers", "fresh resets", "depends on the one before"),
        ("SetsTheWrongState", "reset to a state", "led to another state"),
        ("ForgetsVelocity", "reset to a state", "does sim_state leave out a velocity, or a timer?"),
        ("LazyAdvance", "advance", "advance(action) leads to other states than step(action)"),
        ("Deaf", "actions", "actions change nothing"),
        ("BreaksAtItsBounds", "actions", "at the low end of its bounds the state is not finite"),
        ("SharedWorld", "second instance", "changes the states of the first"),
        ("OneGoal", "goals", "the same goal for every seed"),
        ("RandomGoals", "goals", "other states when the same seed is asked again"),
        ("GoalsMoveTheSeed", "goals", "sampling a goal changes what reset(seed=...) gives"),
        ("AlwaysThere", "goals", "4 of 4 tasks are solved at their start"),
        ("ShowsThePresent", "goal pictures", "shows a state otherwise than its episode did"),
        ("DisturbingGoals", "goal pictures", "render_state disturbs the running episode"),
        ("NeverThere", "success", "success(goal, goal) is False"),
        ("Nearness", "success", "distance(goal, goal) should be 0, and below distance(start, goal)"),
        ("WrongProprio", "proprio", "is not what the observation had as proprio in that state"),
    ],
)
def test_each_break_is_found_by_name(broken: str, check: str, text: str) -> None:
    failed = [finding for finding in findings_of(f"broken_envs:{broken}") if finding.level == "FAIL"]
    assert any(finding.name == check and text in finding.text for finding in failed), [str(each) for each in failed]


def test_what_is_broken_at_the_base_ends_the_checks() -> None:
    findings = findings_of("broken_envs:Crashes")
    assert findings[-1].name == "stopped"
    assert "mend them first" in findings[-1].text
    assert "speed" not in {finding.name for finding in findings}


@pytest.mark.parametrize(
    ("env_id", "check", "text"),
    [
        ("foreign_envs:Restless", "seeding", "equal seeds and actions differ"),
        ("foreign_envs:Still", "actions", "actions change nothing"),
        ("foreign_envs:Text", "made", "it returned str"),
        ("foreign_envs:Boundless", "made", "no bounds in dimension(s) 0"),
        ("foreign_envs:Nothing", "made", "has no class or function 'Nothing'"),
    ],
)
def test_breaks_of_foreign_environments_are_found_too(env_id: str, check: str, text: str) -> None:
    failed = [finding for finding in findings_of(env_id) if finding.level == "FAIL"]
    assert any(finding.name == check and text in finding.text for finding in failed), [str(each) for each in failed]


def test_what_is_good_to_know_is_noted() -> None:
    noted = {f.name: f.text for f in findings_of("broken_envs:TouchesGlobalRandom") if f.level == "note"}
    assert "global random state is used" in noted["seeding"]
    noted = {f.name: f.text for f in findings_of("broken_envs:FarFromItself") if f.level == "note"}
    assert "distance(goal, goal) is up to 0.05" in noted["success"]
    noted = {f.name: f.text for f in findings_of("foreign_envs:Slider", "push=0.2") if f.level == "note"}
    assert "4 of 4 random episodes ended by themselves" in noted["ends"]
    noted = {f.name: f.text for f in findings_of("foreign_envs:Buttons") if f.level == "note"}
    assert "depth" in noted["observation space"]


def test_the_command_says_how_an_environment_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", "broken_envs:Dot", "--image-size", "32"]) == 0
    said = capsys.readouterr().out
    assert "ok    made: broken_envs:Dot (Dot)" in said
    assert "runs natively" in said
    assert main(["env", "check", "foreign_envs:make_slider", "--image-size", "32", "--options", "push=0.01"]) == 0
    said = capsys.readouterr().out
    assert "runs through the adapter, which cannot set it to a state" in said
    assert "--env foreign_envs:make_slider" in said
    assert main(["env", "check", "broken_envs:Black", "--image-size", "32"]) == 1
    said = capsys.readouterr().out
    assert "FAIL  pictures: frame 0 is all of one colour" in said
    assert "1 check(s) failed" in said


def test_wrong_command_lines_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["env", "chek", "x"])
    assert "Available subcommands: check" in capsys.readouterr().err
    assert main(["env", "check", "broken_envs:Dot", "--options", "push"]) == 2
    assert "expected KEY=VALUE, found 'push'" in capsys.readouterr().err
