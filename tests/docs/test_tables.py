"""Tables in the docs list what exists: all of it, and nothing else."""

import json
import re
from pathlib import Path

import doc_pages
import gymnasium
import pytest

import envs  # noqa: F401 - registers the environments
from envs.policies import POLICIES
from jepawm.config import LossConfig, ObjectiveConfig, PlannerConfig
from jepawm.config.command_line import recipe_names
from jepawm.config.head import HeadConfig
from jepawm.config.yaml_io import field_types
from jepawm.data.importers import FORMATS


def table(page: str, header: str) -> list[list[str]]:
    """The rows below the header row that begins with some words, each as its cells."""
    lines = (doc_pages.REPO / page).read_text().splitlines()
    (first,) = [at for at, line in enumerate(lines) if line.startswith(f"| {header}")]
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def names(page: str, header: str, column: int = 0) -> list[str]:
    """What a column of a table names in backticks, in order."""
    return [name for row in table(page, header) for name in re.findall(r"`([^`]+)`", row[column])]


def test_every_planner_is_listed_with_its_settings():
    kinds = {name: PlannerConfig.kind(name) for name in PlannerConfig.kinds}
    rows = {re.findall(r"`(\w+)`", row[0])[0]: row[2] for row in table("docs/planning.md", "`planner.name`")}
    assert set(rows) == set(kinds), "the table of docs/planning.md has a row for each of PlannerConfig.kinds"
    for name, settings in rows.items():
        own = set(field_types(kinds[name])) - set(PlannerConfig.shared_fields())
        assert set(re.findall(r"`(\w+)`", settings)) == own, name


def test_every_preset_of_a_planner_is_listed():
    assert names("docs/planning.md", "`planner.preset`") == list(PlannerConfig.presets)


def test_every_head_is_listed():
    assert names("docs/training.md", "`head.name`") == list(HeadConfig.kinds)


def test_every_setting_of_the_objective_is_listed():
    settings = {f"objective.{name}" for name in field_types(ObjectiveConfig)}
    assert set(names("docs/planning.md", "setting | values")) == settings


def test_every_format_is_listed():
    assert sorted(names("docs/formats.md", "`--from`")) == sorted(FORMATS)


def test_every_environment_and_policy_is_listed():
    registered = {name for name in gymnasium.registry if name.startswith("envs/")}
    assert set(names("docs/environments.md", "id |")) == registered
    assert set(names("docs/environments.md", "id |", column=3)) <= set(POLICIES)


def test_every_recipe_is_listed():
    assert sorted(names("docs/training.md", "recipe | what it trains")) == sorted(recipe_names())


def test_every_term_of_the_loss_is_listed():
    settings = {f"loss.{name}" for name in field_types(LossConfig)}
    assert set(names("docs/training.md", "setting | term")) == settings - {
        "loss.name",
        "loss.distance",
        "loss.adversarial",
        "loss.moments",
        "loss.sigreg_num_projections",
    }


def test_every_key_of_an_evaluation_is_listed(surroundings):
    result = json.loads(Path(surroundings.named["RUN"], "eval.json").read_text())
    assert set(names("docs/evaluation.md", "key | content")) == set(result)


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md", "docs/evaluation.md"])
def test_a_command_of_a_benchmark_has_results(page):
    scripts = set(re.findall(r"python benchmarks/(\w+)\.py", (doc_pages.REPO / page).read_text()))
    for script in scripts - {"rollout_picture"}:
        assert (doc_pages.REPO / "benchmarks" / "results" / f"{script}.json").is_file()
