"""Configurations with a list of sections, and with sections that may be left out: the stages of a pretraining."""

from typing import Any

import pytest
import yaml

from jepawm.cli.pretrain import PRETRAIN
from jepawm.config.command_line import parse, parse_as
from jepawm.config.masking import TubesMaskConfig
from jepawm.config.optim import WSDScheduleConfig
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.run import RunConfig
from jepawm.config.yaml_io import describe, from_dict, resolve, to_dict
from jepawm.errors import ConfigError

STAGES: list[dict[str, Any]] = [
    {"num_frames": 8, "image_size": 64, "schedule": {"name": "wsd", "warmup_steps": 7}},
    {"num_frames": 16, "image_size": 64, "masks": {"name": "tubes", "sets": [{"target_share": 0.6}]}},
]


def test_entries_of_a_list_have_their_own_kinds_and_defaults() -> None:
    layers: list[tuple[str, dict[str, Any]]] = [
        ("below", {"stages": [{"num_frames": 4}]}),
        ("above", {"stages": STAGES}),
    ]
    config, origins = resolve(PretrainConfig, layers)
    first, second = config.stages
    assert isinstance(first.schedule, WSDScheduleConfig)
    assert first.schedule.warmup_steps == 7
    assert first.masks is None
    assert second.schedule is None
    assert isinstance(second.masks, TubesMaskConfig)
    assert [each.target_share for each in second.masks.sets] == [0.6]
    assert config.masks_of(0) is config.masks
    assert config.masks_of(1) is second.masks
    # A list takes the place of the one below.
    assert origins["stages"] == "above"
    assert from_dict(PretrainConfig, to_dict(config)) == config


def test_a_described_list_is_the_yaml_that_made_it() -> None:
    config, origins = resolve(PretrainConfig, [("a recipe", {"stages": STAGES})])
    text = describe(config, origins)
    assert "  - num_frames: 8  # a recipe" in text
    data = yaml.safe_load(text)
    del data["config_version"]
    assert from_dict(PretrainConfig, data) == config


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"num_framez": 8}], "unknown key 'stages.0.num_framez' (did you mean 'num_frames'"),
        ([{}, {"schedule": {"name": "wsd", "warmup": 3}}], "unknown key 'stages.1.schedule.warmup'"),
        ([{"schedule": {"name": "wdd"}}], "unknown 'wdd'"),
        ([{"image_size": "big"}], "'stages.0.image_size'"),
        ({"num_frames": 8}, "'stages' must be a list of mappings"),
        ([8], "'stages.0' must be a mapping"),
    ],
)
def test_a_wrong_entry_is_named_by_its_place(stages: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(PretrainConfig, [("recipe mine", {"stages": stages})])
    assert said in str(error.value)


def test_flags_change_single_numbers_of_stages() -> None:
    words = ["--recipe", "pretrain/tiny_progressive", "--stages.1.num-train-steps", "9"]
    config, _ = parse_as(PretrainConfig, [*words, "--stages.1.schedule.final-fraction", "0.5"], PRETRAIN)
    assert config.stages[0].num_train_steps == 2600
    assert config.stages[1].num_train_steps == 9
    assert to_dict(config)["stages"][1]["schedule"]["final_fraction"] == 0.5


def test_each_command_refuses_the_recipes_of_the_other() -> None:
    with pytest.raises(ConfigError, match="demo is a recipe of `jepawm train`"):
        parse_as(PretrainConfig, ["--recipe", "demo"], PRETRAIN)
    with pytest.raises(ConfigError, match="pretrain/tiny is a recipe of `jepawm pretrain`"):
        parse(["--recipe", "pretrain/tiny"])
    # Lists of plain values are lists as before.
    config, _ = resolve(RunConfig, [("x", {"evaluation": {"protocols": ["open_loop"]}})])
    assert config.evaluation.protocols == ("open_loop",)
