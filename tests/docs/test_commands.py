"""Every command that README and docs show is understood by the program it is meant for; the cheap ones are executed."""

import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable

import click
import doc_pages
import pytest
import tyro

from jepawm.cli.main import main
from jepawm.config import RunConfig
from jepawm.config.command_line import parse

COMMANDS = doc_pages.commands()
# Read the disk or print, and take less than a second.
EXECUTED = {
    ("jepawm", "--version"),
    ("jepawm", "recipes", "list"),
    ("jepawm", "recipes", "show"),
    ("jepawm", "runs", "list"),
    ("jepawm", "runs", "show"),
    ("jepawm", "ckpt", "show", "RUN/model"),
    ("jepawm", "compare", "RUN", "RUN_B"),
}
# Programs of the operating system, which the pages use in the usual way.
SYSTEM = {
    *("apt-get", "sudo", "source", "export", "cd", "git", "uv", "python3", "brew", "rm"),
    *("docker", "kubectl", "sbatch"),
}


class Parsed(BaseException):
    """A command line was understood; what it asks for is not done."""


@pytest.fixture
def reader(surroundings, repo, monkeypatch, tmp_path):
    """Stands where a reader types: a folder with the pages' own recipe and the repository's `cluster.yaml`."""
    for block in doc_pages.blocks("yaml"):
        name = re.match(r"# (\w+\.yaml)\n", block.text)
        if name:
            (surroundings.folder / name[1]).write_text(block.text)
    shutil.copy(repo / "cluster.yaml", surroundings.folder)
    for name, text in doc_pages.saved_files().items():
        (surroundings.folder / name).write_text(text)
    monkeypatch.chdir(surroundings.folder)
    # Python finds the modules of the folder it runs in.
    monkeypatch.syspath_prepend(surroundings.folder)
    monkeypatch.setenv("JEPAWM_HOME", str(surroundings.folder / "runs"))
    yield surroundings
    for name in doc_pages.saved_files():
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture
def stops_when_parsed(monkeypatch):
    """The parser of every command, tyro, ends the command as soon as its words are understood."""

    def ending(understand):
        def understand_and_stop(*arguments, **settings):
            understand(*arguments, **settings)
            raise Parsed

        return understand_and_stop

    monkeypatch.setattr(tyro, "cli", ending(tyro.cli))
    monkeypatch.setattr(tyro.extras, "subcommand_cli_from_dict", ending(tyro.extras.subcommand_cli_from_dict))


def parses_as_jepawm(words: list[str], repo) -> None:
    asks = {"--help", "-h", "--help-all", "--print-config", "--version"} & set(words)
    with pytest.raises((SystemExit, Parsed)) as end:
        raise SystemExit(main(words))
    if isinstance(end.value, SystemExit):
        assert end.value.code == 0
        assert asks, "the command was carried out instead of parsed"


def parses_as_python(words: list[str], repo) -> None:
    if words[:2] == ["-m", "pytest"]:
        assert all((repo / path).exists() for path in words[2:])
        return
    if words[:2] == ["-m", "jepawm"]:
        parses_as_jepawm(words[2:], repo)
        return
    script = repo / words[0]
    assert script.is_file()
    if script.parent.name == "ray_jobs":
        parses_as_jepawm([script.stem.replace("_", "-"), *words[1:]], repo)
        return
    known = set(re.findall(r'"(--[\w-]+)"', script.read_text()))
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def parses_as_click(program: str, words: list[str]) -> None:
    """Follows groups down to the command, whose arguments click then converts and checks; none: the name is enough."""
    place = {"ray": ("ray.scripts.scripts", "cli"), "mlflow": ("mlflow.cli", "cli")}[program]
    command = getattr(importlib.import_module(place[0]), place[1])
    while words and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{program} has no command '{words[0]}'"
        command, words = found, words[1:]
    if words:
        command.make_context(program, list(words))


def parses_as_ray(words: list[str], repo) -> None:
    inner = words[words.index("--") + 1 :] if "--" in words else []
    parses_as_click("ray", words)
    if inner:
        assert inner[0] == "python"
        parses_as_python(inner[1:], repo)


def parses_as_make(words: list[str], repo) -> None:
    subprocess.run(["make", "-n", *words], cwd=repo, check=True, capture_output=True)


def parses_as_bash(words: list[str], repo) -> None:
    script = repo / words[0]
    subprocess.run(["bash", "-n", str(script)], check=True, capture_output=True)
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z]+", script.read_text()))


def parses_as_pip(words: list[str], repo) -> None:
    assert words[0] == "install"
    extras = set(tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for word in words[1:]:
        named = re.fullmatch(r"(?:\.|jepawm)\[([\w,]+)\]", word)
        assert not named or set(named[1].split(",")) <= extras, f"extras there are: {sorted(extras)}"


PROGRAMS: dict[str, Callable] = {
    "jepawm": parses_as_jepawm,
    "python": parses_as_python,
    "ray": parses_as_ray,
    "mlflow": lambda words, repo: parses_as_click("mlflow", words),
    "make": parses_as_make,
    "bash": parses_as_bash,
    "pip": parses_as_pip,
}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_understood(command, reader, repo, stops_when_parsed, capsys):
    words = [os.path.expandvars(reader.fill(word)) for word in command.words]
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program, *rest = words
    if command.is_name and program == "jepawm":
        flags = [word for word in rest if word.startswith("--")]
        parses_as_jepawm([*(word for word in rest if word not in flags), "--help"], repo)
        page = capsys.readouterr().out
        assert all(flag in page for flag in flags)
    elif program not in SYSTEM:
        PROGRAMS[program](rest, repo)


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if any(command.words[: len(run)] == run for run in EXECUTED)], ids=str
)
def test_a_cheap_command_runs(command, reader, capsys):
    try:
        code = main([reader.fill(word) for word in command.words[1:]])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert not code, printed.err
    assert printed.out


def test_the_pages_show_each_cheap_command():
    shown = {command.words[: len(run)] for command in COMMANDS for run in EXECUTED}
    assert shown >= EXECUTED


@pytest.mark.parametrize("block", doc_pages.blocks("yaml"), ids=str)
def test_a_recipe_is_valid(block, reader, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(block.text)
    config, _ = parse(["--recipe", str(recipe)])
    assert config != RunConfig()


def test_the_picture_of_a_rollout_is_drawn(reader, repo, tmp_path, monkeypatch):
    (command, *_) = [each for each in COMMANDS if each.words[1:2] == ("benchmarks/rollout_picture.py",)]
    words = [reader.fill(word) for word in command.words[1:]]
    picture = tmp_path / "rollout.png"
    monkeypatch.setattr(sys, "argv", [*words, "--episodes", "4", "--output", str(picture)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(repo / words[0]), run_name="__main__")
    assert picture.read_bytes().startswith(b"\x89PNG")
