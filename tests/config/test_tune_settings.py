"""Settings of a sweep on the command line: kinds by their names, and what does not go together."""

import pytest

from jepawm.config.command_line import take_section
from jepawm.config.tune import ASHAConfig, GridSearchConfig, MedianConfig, TuneConfig
from jepawm.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tune.scheduler.name pbt --tune.search.name optuna", "tune.search.name must be random"),
        ("--tune.second-metric decision_ms --tune.scheduler.name asha", "compares trials by one metric"),
        ("--tune.scheduler.name asha --tune.scheduler.metric train/loss", "belong together"),
        ("--tune.scheduler.name ashaa", "did you mean 'asha'"),
        ("--tune.gpus-per-trial 1.5", "whole number"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        take_section(words.split(), TuneConfig)


def test_the_command_line_makes_the_kind_that_is_named():
    words = "--recipe demo --tune.scheduler.name asha --tune.scheduler.first-rung 100 --tune.search.name grid"
    settings, rest = take_section(f"{words} --tune.search.points-per-range 3 --seed 1".split(" "), TuneConfig)
    assert settings.scheduler == ASHAConfig(first_rung=100)
    assert settings.search == GridSearchConfig(points_per_range=3)
    assert rest == ["--recipe", "demo", "--seed", "1"]
    assert ASHAConfig(first_rung=100, reduction_factor=3).rungs(1000) == (100, 300, 900)
    assert MedianConfig(every=300).rungs(900) == (300, 600)
