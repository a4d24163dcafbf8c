"""Rates over seeds, paired tests, and what is called shown."""

import math

import pytest

from jepawm.study.statistics import Pair, all_pairs, compare, is_above, over_seeds, pooled, ranking


def solved(*rates: list[bool]) -> dict[int, dict[int, bool]]:
    return {seed: dict(enumerate(each)) for seed, each in enumerate(rates)}


def mostly(number: int, of: int) -> list[bool]:
    return [True] * number + [False] * (of - number)


def test_the_interval_over_seeds_is_students_t() -> None:
    spread = over_seeds([0.2, 0.4, 0.6, math.nan])
    assert spread is not None
    # t of 2 degrees of freedom at 0.975 is 4.302653, to scipy's digits; the three have deviation 0.2.
    half = 4.302652729911275 * 0.2 / math.sqrt(3)
    assert (spread.low, spread.mean, spread.high) == pytest.approx((0.4 - half, 0.4, 0.4 + half), rel=1e-8)
    assert spread.values == (0.2, 0.4, 0.6)
    alone = over_seeds([0.5])
    assert alone is not None
    assert (alone.low, alone.high) == (None, None)
    assert over_seeds([math.nan]) is None


def test_episodes_of_all_seeds_are_pooled_and_seeds_shown_beside() -> None:
    found = pooled(solved(mostly(8, 10), mostly(2, 10)))
    assert (found.rate.success_rate, found.rate.num_episodes) == (0.5, 20)
    assert found.spread.values == (0.8, 0.2)
    low, high = found.rate.success_interval
    assert low < 0.5 < high


def test_a_difference_in_every_seed_is_shown_and_one_that_a_single_seed_makes_is_not() -> None:
    outcomes = {
        "weak": solved(mostly(5, 40), mostly(5, 40), mostly(5, 40)),
        "strong": solved(mostly(30, 40), mostly(28, 40), mostly(31, 40)),
        "lucky": solved(mostly(40, 40), mostly(5, 40), mostly(4, 40)),
    }
    by_name = {(pair.first, pair.second): pair for pair in compare(outcomes, all_pairs(list(outcomes)))}
    strong, lucky = by_name["weak", "strong"], by_name["weak", "lucky"]
    assert strong.is_shown
    assert strong.by_seed == (0.625, 0.575, 0.65)
    assert strong.verdict().startswith("strong is better than weak")
    # McNemar alone would call it real.
    assert lucky.adjusted_p_value < 0.05
    assert not lucky.is_shown
    assert "not in each of 3 seeds: not shown" in lucky.verdict()
    ranks = {
        rank.label: rank
        for rank in ranking({label: pooled(each) for label, each in outcomes.items()}, list(by_name.values()))
    }
    assert next(iter(ranks)) == "strong"
    assert ranks["weak"].worse_than == ("strong",)
    assert ranks["weak"].not_told_apart_from == ("lucky",)


def test_holm_corrects_for_all_pairs_together_and_unmatched_seeds_are_left_out() -> None:
    outcomes = {"a": solved(mostly(10, 20)), "b": solved(mostly(16, 20), mostly(20, 20)), "c": {7: {0: True}}}
    first = compare(outcomes, [("a", "b")])
    assert [pair.paired.num_episodes for pair in first] == [20]
    assert compare(outcomes, [("a", "c")]) == ()
    twice = compare(outcomes, [("a", "b"), ("a", "b")])
    assert twice[0].adjusted_p_value == pytest.approx(2 * first[0].adjusted_p_value)


def test_equal_rates_are_called_equal() -> None:
    (pair,) = compare({"a": solved(mostly(3, 6)), "b": solved(mostly(3, 6))}, [("a", "b")])
    assert isinstance(pair, Pair)
    assert pair.verdict() == "a and b have equal rates (1 seed)"


def test_one_seed_shows_nothing_of_trainings() -> None:
    (alone,) = compare({"a": solved(mostly(0, 40)), "b": solved(mostly(40, 40))}, [("a", "b")])
    assert alone.adjusted_p_value < 1e-6
    assert not alone.is_shown
    assert alone.verdict().endswith("in one seed alone: not shown")
    again = {"a": solved(*[mostly(0, 40)] * 2), "b": solved(*[mostly(40, 40)] * 2)}
    assert compare(again, [("a", "b")])[0].is_shown


def test_a_rate_is_above_another_where_intervals_and_every_seed_say_so() -> None:
    low = pooled(solved(mostly(10, 40)))
    assert is_above(pooled(solved(mostly(30, 40), mostly(32, 40))), low)
    # A single seed that is no better than random plans, or a single seed in all.
    assert not is_above(pooled(solved(*[mostly(40, 40)] * 3, mostly(10, 40))), low)
    assert not is_above(pooled(solved(mostly(40, 40))), low)
    # Ahead in each seed, but not by more than the intervals are wide.
    assert not is_above(pooled(solved(mostly(12, 40), mostly(13, 40))), low)
