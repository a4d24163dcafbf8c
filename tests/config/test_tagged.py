"""Sections of several kinds: each kind has its own settings, and only those."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from jepawm.config import EncoderConfig, MaskConfig, PlannerConfig, PredictorConfig, RunConfig, from_dict, to_dict
from jepawm.config.tagged import TaggedConfig, import_object
from jepawm.errors import ConfigError

SECTIONS: list[type[TaggedConfig]] = [EncoderConfig, PredictorConfig, PlannerConfig, MaskConfig]
NEEDED: dict[str, dict[str, Any]] = {"none": {"latent_dim": 8, "patch_size": 8}}
KINDS = [(section, name) for section in SECTIONS for name in section.kinds]


@dataclass(frozen=True)
class OwnPlannerConfig(PlannerConfig):
    """A planner from somebody else's package."""

    implementation: ClassVar[str] = "test_tagged:OwnPlannerConfig"

    name: str = "test_tagged:OwnPlannerConfig"
    boldness: float = 2.0


@pytest.mark.parametrize(("section", "name"), KINDS)
def test_a_kind_is_made_by_its_name_and_survives_every_journey(section: type[TaggedConfig], name: str) -> None:
    config: Any = section(name=name, **NEEDED.get(name, {}))
    assert type(config) is section.kind(name)
    assert config.name == name
    assert isinstance(config, section)
    assert from_dict(section, to_dict(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    assert dataclasses.replace(config) == config


@pytest.mark.parametrize(("section", "name"), KINDS)
def test_a_kind_names_what_is_built_from_it(section: type[TaggedConfig], name: str) -> None:
    assert callable(import_object(section.kind(name).implementation, section.section))


@pytest.mark.parametrize("section", SECTIONS)
def test_the_base_makes_the_default_kind(section: type[TaggedConfig]) -> None:
    assert type(section()) is section.kind(section.default_kind)
    with pytest.raises(ConfigError, match=rf"{section.section}\.name: unknown 'nme'"):
        section(name="nme")


def test_a_setting_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"planner\.num_elites has no meaning for planner\.name 'random_shooting'"):
        PlannerConfig(name="random_shooting", num_elites=3)
    with pytest.raises(ConfigError, match=r"mine: unknown key 'planner\.num_elites'"):
        from_dict(RunConfig, {"planner": {"name": "random_shooting", "num_elites": 3}}, "mine")


def test_a_kind_of_somebody_elses_package_is_named_by_its_place() -> None:
    data = {"planner": {"name": "test_tagged:OwnPlannerConfig", "boldness": 3.0, "horizon": 7}}
    config = from_dict(RunConfig, data)
    assert type(config.planner).__name__ == "OwnPlannerConfig"
    assert to_dict(config)["planner"]["boldness"] == 3.0
    assert from_dict(RunConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_module:X", r"planner\.name: cannot import no_such_module:X"),
        ("test_tagged:NoSuch", r"planner\.name: cannot import test_tagged:NoSuch"),
        ("jepawm.config.encoder:ViTEncoderConfig", r"is no dataclass that extends PlannerConfig"),
        ("json:dumps", r"is no dataclass that extends PlannerConfig"),
    ],
)
def test_a_place_that_holds_no_kind_is_refused(place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlannerConfig(name=place)
