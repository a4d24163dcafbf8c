"""What the README tells people to type."""

import re
import shlex
import subprocess

import pytest

from jepawm.config_io import parse, recipe_names


def _commands(repo):
    blocks = re.findall(r"```bash\n(.*?)```", (repo / "README.md").read_text(), flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_flag_the_readme_names_exists(repo, monkeypatch):
    monkeypatch.chdir(repo)
    tried = 0
    for line in _commands(repo):
        words = shlex.split(line)
        if words[:1] != ["python"] or not words[1].startswith("ray_jobs/"):
            continue
        assert (repo / words[1]).is_file()
        flags = words[2:]
        if "--help" in flags or "--print-config" in flags:
            with pytest.raises(SystemExit) as stop:
                parse(flags)
            assert stop.value.code == 0
        elif not {"my.yaml", "RUN/config.yaml"} & set(flags) and "--model" not in flags:
            parse(flags)
        tried += 1
    assert tried >= 5


def test_the_make_targets_and_recipes_the_readme_names_exist(repo):
    text = (repo / "README.md").read_text()
    for target in set(re.findall(r"\bmake (demo|test|setup|lint)\b", text)):
        subprocess.run(["make", "-n", target], cwd=repo, check=True, capture_output=True)
    assert set(re.findall(r"--recipe (\w+)\b", text)) - {"my", "RUN"} <= set(recipe_names())


def test_every_result_file_the_readme_links_is_there(repo):
    for name in re.findall(r"\((benchmarks/[^)]+)\)", (repo / "README.md").read_text()):
        assert (repo / name).is_file(), name
