"""The `jepawm` command: every command answers --help and wrong use, and is read without torch."""

import re
import subprocess
import sys

import pytest

from jepawm.cli.main import COMMANDS, main
from jepawm.config.command_line import TRAIN, field_texts, parse
from jepawm.config.planner import CEMConfig, PlannerConfig
from jepawm.config.recipe_files import recipe_names
from jepawm.config.subgoals import SubgoalConfig
from jepawm.errors import ConfigError

GROUPS = {"runs": ["list", "show", "rm"], "recipes": ["list", "show"], "track": ["sync"], "env": ["check"]}
GROUPS |= {"ckpt": ["show", "convert"], "data": ["list", "get", "verify", "convert", "check", "show", "stats"]}


def run(*words: str) -> int:
    try:
        return main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, flag) == 0
    assert f"usage: jepawm {'train' if command == 'demo' else command}" in capsys.readouterr().out


@pytest.mark.parametrize(("group", "command"), [(group, each) for group, all_ in GROUPS.items() for each in all_])
def test_every_command_of_a_group_has_help(group: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, command, "--help") == 0
    assert f"usage: jepawm {group} {command}" in capsys.readouterr().out


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_answers_a_wrong_word_with_its_usage(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group, "nonsense") == 2
    assert f"jepawm {group}" in capsys.readouterr().err


@pytest.mark.parametrize("group", ["track", "env", "ckpt"])
def test_a_group_alone_prints_its_usage(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group) == 2
    said = capsys.readouterr()
    assert f"usage: jepawm {group}" in said.out + said.err


def test_the_list_of_commands_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == run("--help") == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert run("--version") == 0
    assert re.match(r"jepawm \d+\.\d+\.\d+, Python 3\.\d+", capsys.readouterr().out)
    assert run("trian") == 2
    assert "unknown command 'trian' (did you mean 'train'?)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["recipes"], ["train", "--help"], ["runs"]])
def test_what_needs_no_torch_imports_none(words: list[str]) -> None:
    code = f"import sys; from jepawm.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'ray', 'mlflow', 'gymnasium'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# -- the flags of a run ----------------------------------------------------------------------------------------------


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(*words) == 0
    return capsys.readouterr().out


def test_help_is_short_and_says_how_to_see_all(capsys: pytest.CaptureFixture[str]) -> None:
    short = set(re.findall(r"--[\w.-]+", help_of("train", "--help", capsys=capsys)))
    everything = set(re.findall(r"--[\w.-]+", help_of("train", "--help-all", capsys=capsys)))
    assert {"--recipe", "--print-config", "--help-all", "--planner.name", "--train.batch-size"} <= short
    assert len(short) < 0.5 * len(everything)
    assert "--planner.num-elites" in everything - short
    assert len(TRAIN.common) < 40


def test_help_shows_the_fields_of_the_kind_that_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--planner.num-elites" in help_of("train", "--planner.name", "cem", "--help", capsys=capsys)
    shooting = help_of("train", "--planner.name", "random_shooting", "--help-all", capsys=capsys)
    assert "--planner.num-samples" in shooting
    assert "--planner.num-elites" not in shooting


def test_help_shows_the_recipes_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(
        r"--train\.num-train-steps INT.*?default: 155000",
        help_of("train", "--recipe", "lewm", "-h", capsys=capsys),
        re.DOTALL,
    )


def test_switches_are_written_in_three_ways() -> None:
    for words in (["--local", "--tracking.no-mlflow"], ["--local", "True", "--tracking.mlflow=False"]):
        config, _ = parse(words)
        assert (config.local, config.tracking.mlflow) == (True, False)
    assert parse(["--model.encoder.trainable", "false"])[0].model.encoder.trainable is False


def test_a_flag_that_moved_is_answered_with_its_new_name() -> None:
    with pytest.raises(ConfigError, match=r"--planner\.proprio-weight is --objective\.proprio-weight now"):
        parse(["--planner.proprio-weight", "0.3"])


def test_a_kind_is_chosen_on_the_command_line() -> None:
    config, _ = parse(["--planner.name=random_shooting", "--planner.num-samples", "9", "--planner.horizon", "7"])
    assert config.planner == PlannerConfig(name="random_shooting", num_samples=9, horizon=7, init_std=1.5)


def test_a_kind_inside_a_kind_is_chosen_on_the_command_line() -> None:
    words = ["--subgoals.name", "macro", "--subgoals.planner.name=mppi", "--subgoals.planner.temperature", "2"]
    config, _ = parse([*words, "--subgoals.planner.horizon", "4", "--subgoals.horizon", "fixed"])
    search = PlannerConfig(name="mppi", temperature=2.0, horizon=4)
    assert config.subgoals == SubgoalConfig(name="macro", planner=search, horizon="fixed")
    assert parse([])[0].subgoals == SubgoalConfig(name="none")
    with pytest.raises(ConfigError, match=r"planner\.name: unknown 'mpi' \(did you mean 'mppi'\?\)"):
        parse(["--subgoals.name", "macro", "--subgoals.planner.name", "mpi"])


def test_every_setting_has_a_text() -> None:
    texts = field_texts(CEMConfig)
    assert {"name", "horizon", "num_samples", "min_std"} <= texts.keys()
    assert "\n" not in "".join(texts.values())


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_shown_with_what_they_state(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of("recipes", "show", name, "--no-needs", capsys=capsys)
    assert re.search(r"train\.num_train_steps +\d+ +\w+", shown) or name == "pusht_human"
    assert re.search(r"^training +[\d,]+ train steps", shown, re.MULTILINE)
    assert re.search(r"^ours +\w", shown, re.MULTILINE)
    if name == "pldm_small":
        assert "extends lewm_small -> demo" in shown
        assert re.search(r"loss\.sigreg +0\.0 +pldm_small", shown)
