"""Evaluations beside each other: exact tests, how many more episodes would tell, and what is said."""

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepawm.config import RunConfig, to_dict
from jepawm.errors import ConfigError
from jepawm.evaluation.compare import compare
from jepawm.evaluation.compare_page import write_comparison
from jepawm.evaluation.metrics import holm, paired_test, success_rate, unpaired_p_value
from jepawm.evaluation.outcomes import EpisodeOutcome, ProtocolReport, ProtocolResult
from jepawm.evaluation.result import EvaluationResult, ModelFacts, Played, Provenance


def pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


# -- tests -----------------------------------------------------------------------------------------------------------


def test_mcnemars_test_is_the_binomial_of_the_episodes_that_one_alone_solves() -> None:
    for only_first, only_second in itertools.product(range(6), repeat=2):
        found = paired_test(*pairs(3, only_first, only_second, 2))
        number = only_first + only_second
        # All outcomes of `number` fair coins, at least as uneven as this one.
        uneven = [heads for heads in range(number + 1) if abs(2 * heads - number) >= abs(only_first - only_second)]
        ways = sum(math.comb(number, heads) for heads in uneven)
        assert found.p_value == pytest.approx(ways / 2**number, abs=1e-12)
        assert (found.both, found.only_first, found.only_second, found.neither) == (3, only_first, only_second, 2)
        assert found.difference == pytest.approx((only_second - only_first) / found.num_episodes)


def test_as_many_episodes_as_are_said_to_tell_do_tell() -> None:
    rng = np.random.default_rng(0)
    share_first, share_second = 0.05, 0.15
    found = paired_test(*pairs(60, 5, 15, 20))
    needed = found.episodes_needed
    assert needed is not None
    draws = rng.multinomial(needed, [share_first, share_second, 1 - share_first - share_second], 200)
    told = [paired_test(*pairs(0, *(int(count) for count in draw))).p_value < 0.05 for draw in draws]
    # Of 200 draws with probability 0.8, fewer than 0.68 or more than 0.9 come once in ten thousand; the exact test is a
    # little more careful than the formula's normal errors.
    assert 0.68 < np.mean(told) < 0.9


def test_equal_rates_never_tell() -> None:
    assert paired_test(*pairs(1, 4, 4, 1)).episodes_needed is None
    assert paired_test(*pairs(5, 0, 0, 5)).p_value == 1.0


def test_a_smaller_difference_needs_more_episodes() -> None:
    needed = [paired_test(*pairs(10, 0, number, 30)).episodes_needed for number in (8, 4, 2, 1)]
    assert needed == sorted(needed, key=lambda number: number or 0)
    assert len(set(needed)) == 4


def test_fishers_test_is_exact() -> None:
    # Of 8 episodes in two fours, 4 solved: all in one half happens in 2 of 70 ways.
    first, second = success_rate([True] * 4), success_rate([False] * 4)
    assert unpaired_p_value(first, second) == pytest.approx(2 / 70)


def test_p_values_of_several_comparisons_are_raised() -> None:
    assert holm([0.01]) == [0.01]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# -- comparisons -----------------------------------------------------------------------------------------------------


def result(solved: list[bool], *, tasks: str = "t", protocol: str = "two_plan", **settings: Any) -> EvaluationResult:
    config = RunConfig(**settings)
    episodes = tuple(
        EpisodeOutcome(number, each, env_steps=30, num_plans=1, start=[0.0], goal=[1.0], end=[1.0])
        for number, each in enumerate(solved)
    )
    played = ProtocolResult(success_rate(solved), episodes, 10.0, 20.0, 5.0, 1.0, decision_ms_p50=2.5)
    random = dataclasses.replace(played, rate=success_rate([False] * len(solved)))
    rules = getattr(config.evaluation, protocol)
    return EvaluationResult(
        seed=99,
        model=ModelFacts("model", "ab", 1),
        config=to_dict(config),
        provenance=Provenance("now", None, {}, {}),
        played=Played({protocol: ProtocolReport(rules, played, random)}, 0, "sampler", "", tasks),
    )


def test_noise_is_called_noise_and_a_difference_is_called_one() -> None:
    base, close = pairs(20, 4, 6, 20)
    _, far = pairs(20, 4, 26, 0)
    found = compare({"a": result(base), "b": result(close), "c": result(far)})
    (protocol,) = found.protocols
    noise, real = protocol.differences
    assert not noise.is_real
    assert noise.p_value == pytest.approx(0.7539, abs=1e-4)
    assert noise.adjusted_p_value == noise.p_value
    assert real.is_real
    assert real.adjusted_p_value == pytest.approx(2 * real.p_value)
    text = noise.verdict("a")
    more = re.search(r"about (\d+) more episodes", text)
    assert more
    assert noise.paired is not None
    assert int(more[1]) == (noise.paired.episodes_needed or 0) - 50
    assert real.verdict("a").startswith("c is better than a (p = ")
    assert found.warnings == ()


def test_the_verdict_names_the_better_one_either_way() -> None:
    few, many = pairs(10, 0, 20, 20)
    found = compare({"good": result(many), "bad": result(few)})
    assert found.protocols[0].differences[0].verdict("good").startswith("good is better than bad")
    same = compare({"one": result(many), "two": result(many)}).protocols[0].differences[0]
    assert same.verdict("one") == "two and one have equal rates"


def test_other_episodes_are_not_paired() -> None:
    many, few = [True] * 8 + [False] * 2, [True] * 2 + [False] * 8
    found = compare({"a": result(many), "b": result(few, tasks="u")})
    (difference,) = found.protocols[0].differences
    assert difference.paired is None
    assert difference.p_value == unpaired_p_value(success_rate(many), success_rate(few))
    assert "b played other episodes than a" in found.warnings[0]


def test_settings_that_differ_are_listed() -> None:
    found = compare({"a": result([True, False]), "b": result([True, True], seed=4, run_dir="elsewhere")})
    assert found.settings == {"seed": (0, 4)}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least two evaluations, found 1"):
        compare({"a": result([True])})
    with pytest.raises(ConfigError, match=r"no protocol was played by two .*a: two_plan; b: per_chunk"):
        compare({"a": result([True]), "b": result([True], protocol="per_chunk")})


def test_the_page_is_one_file_that_says_what_the_terminal_says(tmp_path: Path) -> None:
    base, close = pairs(20, 4, 6, 20)
    found = compare({"a<b": result(base), "c": result(close, seed=3)})
    write_comparison(str(tmp_path / "page.html"), found)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "a&lt;b" in text
    assert "a<b" not in text
    assert "no difference is shown" in text
    assert "48.0 %" in text
    assert "52.0 %" in text
    assert "<code>seed</code>" in text
    assert not re.search(r"<script|<link|@import", text)
