"""Recipes with parents, layers over each other, and where each value comes from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jepawm.config import CEMConfig, PlannerConfig, RunConfig, to_dict
from jepawm.config.recipe_files import recipe_layers
from jepawm.config.yaml_io import flatten, override, resolve
from jepawm.errors import ConfigError


def write(folder: Path, name: str, **data: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(data))
    return str(path)


def test_a_recipe_states_only_what_differs_from_its_parents(tmp_path: Path) -> None:
    write(tmp_path, "grandparent.yaml", extends="demo", seed=3, planner={"num_samples": 50})
    write(tmp_path, "parent.yaml", extends="grandparent.yaml", planner={"horizon": 8})
    child = write(tmp_path, "child.yaml", extends="parent.yaml", planner={"num_samples": 60})
    config, origins = resolve(RunConfig, recipe_layers(child))
    assert (config.seed, config.planner.horizon, config.planner) == (
        3,
        8,
        CEMConfig(horizon=8, num_samples=60, num_iterations=20, init_std=1.5),
    )
    assert origins["seed"].endswith("grandparent.yaml")
    assert origins["planner.horizon"].endswith("parent.yaml")
    assert origins["planner.num_samples"].endswith("child.yaml")
    assert origins["planner.init_std"] == "recipe demo"
    assert "planner.min_std" not in origins


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", extends="b.yaml")
    path = write(tmp_path, "b.yaml", extends="a.yaml")
    with pytest.raises(ConfigError, match="goes in a circle"):
        recipe_layers(path)
    with pytest.raises(ConfigError, match=r"unknown recipe 'dmo' \(did you mean 'demo'\?\)"):
        recipe_layers(write(tmp_path, "c.yaml", extends="dmo"))
    with pytest.raises(ConfigError, match="'extends' must be one recipe"):
        recipe_layers(write(tmp_path, "d.yaml", extends=["demo"]))


def test_another_kind_keeps_what_all_kinds_share_and_drops_the_rest() -> None:
    below = ("below", {"planner": {"horizon": 9, "num_elites": 5, "num_samples": 40}})
    config, origins = resolve(RunConfig, [below, ("above", {"planner": {"name": "random_shooting"}})])
    assert config.planner == PlannerConfig(name="random_shooting", horizon=9)
    assert origins == {"planner.horizon": "below", "planner.name": "above"}


def test_a_layer_may_mend_what_would_be_wrong_with_those_below_it() -> None:
    wrong = ("wrong", {"train": {"batch_size": 127}, "scaling": {"num_workers": 2}})
    with pytest.raises(ConfigError, match="127 windows for 2 workers"):
        resolve(RunConfig, [wrong])
    config, _ = resolve(RunConfig, [wrong, ("right", {"train": {"batch_size": 128}})])
    assert config.train.batch_size == 128


def test_a_wrong_key_or_value_is_told_with_its_layer() -> None:
    with pytest.raises(ConfigError, match=r"mine: unknown key 'planner\.horizn' \(did you mean 'horizon'\?\)"):
        resolve(RunConfig, [("mine", {"planner": {"horizn": 1}})])
    with pytest.raises(ConfigError, match=r"mine: 'train\.batch_size': .*integer.*found 'many'"):
        resolve(RunConfig, [("mine", {"train": {"batch_size": "many"}})])
    with pytest.raises(ConfigError, match=r"mine: 'train' must be a mapping, found 3"):
        resolve(RunConfig, [("mine", {"train": 3})])


def test_some_settings_of_a_section_are_changed() -> None:
    planner = PlannerConfig(horizon=4, num_samples=32, num_elites=4)
    assert override(planner, {"num_samples": 64}, "here") == PlannerConfig(horizon=4, num_samples=64, num_elites=4)
    shooting = override(planner, {"name": "random_shooting", "num_samples": 8}, "here")
    assert shooting == PlannerConfig(name="random_shooting", horizon=4, num_samples=8)
    with pytest.raises(ConfigError, match=r"here: unknown key 'num_sample' \(did you mean 'num_samples'\?\)"):
        override(planner, {"num_sample": 8}, "here")


def stated(name: str) -> str:
    """SHA-256 of what a recipe and its parents state, as it is resolved; a new setting does not change it."""
    config, origins = resolve(RunConfig, recipe_layers(name))
    flat = flatten(to_dict(config))
    return hashlib.sha256(json.dumps({key: flat[key] for key in sorted(origins)}).encode()).hexdigest()[:12]


# So that a change of a parent that changes a child is meant.
STATED = {
    "demo": "ad63d70324dc",
    "lewm": "2ce9cb7f809d",
    "lewm_small": "ea226b53b84b",
    "pldm": "b108ca8b4f04",
    "pldm_small": "151c31c04450",
    "pusht": "3f35e987b59c",
    "pusht_human": "1d07120253e3",
}


def test_recipes_state_what_they_did() -> None:
    # Recipes of published models are compared with the zoo instead (tests/training/test_recipes.py).
    assert {name: stated(name) for name in STATED} == STATED
