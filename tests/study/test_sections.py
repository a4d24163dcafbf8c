"""Sentences of the report follow from intervals."""

from dataclasses import replace

from jepawm.study.parts import leader, of_seeds, spread
from jepawm.study.sections import sections
from jepawm.study.statistics import PooledRate, all_pairs, compare, over_seeds, pooled, ranking
from jepawm.study.summary import Comparison, StudySummary, SuccessRow, TransferRow


def values(*numbers: float):
    found = over_seeds(numbers)
    assert found is not None
    return found


def test_the_best_mean_is_apart_only_from_intervals_that_it_does_not_touch() -> None:
    among = {"a": values(0.9, 0.91, 0.92), "b": values(0.5, 0.51, 0.52), "c": values(0.2, 0.9, 1.4)}
    assert leader(among, "R2", highest=True) == (
        f"a has the highest R2 ({spread(among['a'])}), apart from b but not from c"
    )
    lowest = leader({"a": among["a"], "b": among["b"]}, "error", highest=False)
    assert lowest is not None
    assert lowest.startswith("b has the lowest error")
    assert lowest.endswith("apart from a")
    one_seed = leader({"a": values(0.9), "b": values(0.1)}, "R2", highest=True)
    assert one_seed is not None
    assert one_seed.endswith("tell it from no other encoder")
    assert leader({"a": among["a"], "b": None}, "R2", highest=True) is None


def rate(*each: list[bool]) -> PooledRate:
    return pooled({seed: dict(enumerate(episodes)) for seed, episodes in enumerate(each)})


def of_40(*solved: int) -> PooledRate:
    return rate(*([True] * number + [False] * (40 - number) for number in solved))


def test_equal_rates_of_seeds_show_no_interval_that_would_be_a_point() -> None:
    assert of_seeds(rate([False] * 4, [False] * 4)) == "0, 0"
    assert of_seeds(rate([True, False], [False, False])) == "50, 0; mean [0, 100]"


def test_random_plans_are_beaten_and_success_is_lost_only_where_every_seed_says_so() -> None:
    nothing = StudySummary(
        *("name", "about", {"wall": ""}, {"a": ""}, {}, {"elsewhere": ""}, (), (0, 1, 2), 3, 3, {}),
        *((), (), (), (), (), (), (), ()),
    )

    def conclusions(title: str, success: SuccessRow, transfer: TransferRow) -> tuple[str, ...]:
        found = sections(replace(nothing, success=(success,), transfer=(transfer,)))
        return next(section.conclusions for section in found if section.title == title)

    success = SuccessRow("wall", "a", 1.0, 6, "two_plan", planned=of_40(35, 36, 34), random=of_40(8))
    transfer = TransferRow(
        "elsewhere", "wall", "a", at_home=of_40(35, 36, 34), elsewhere=of_40(20, 22, 21), random=of_40(8)
    )
    assert conclusions("Transfer", success, transfer) == (
        "elsewhere, a: beats random plans there, and is worse than at home",
    )
    # One training of three does as random plans do: the pooled interval alone would not tell.
    mixed = replace(transfer, elsewhere=of_40(8, 36, 20))
    assert conclusions("Transfer", success, mixed) == (
        "elsewhere, a: is not shown to beat random plans there, and is not shown to be worse than at home",
    )
    title = "Success in wall"
    assert not [text for text in conclusions(title, success, transfer) if "not shown to beat" in text]
    one_bad = replace(success, planned=of_40(40, 40, 8))
    assert [text for text in conclusions(title, one_bad, transfer) if "not shown to beat random plans" in text]


def test_differences_at_smaller_shares_are_conclusions_and_the_ranking_is_that_of_the_largest() -> None:
    def compared(fraction: float, *solved: PooledRate) -> Comparison:
        outcomes = {
            label: {seed: {e: e < each * 40 for e in range(40)} for seed, each in enumerate(rates.spread.values)}
            for label, rates in zip("ab", solved, strict=True)
        }
        tests = compare(outcomes, all_pairs(list(outcomes)))
        ranks = ranking({label: pooled(each) for label, each in outcomes.items()}, tests)
        return Comparison("wall", "encoders", fraction, ranks, tests)

    few, many = of_40(4, 6, 5), of_40(25, 24, 27)
    rows = tuple(
        SuccessRow("wall", label, fraction, 6, "two_plan", planned=rate, random=of_40(0))
        for label, fraction, rate in (("a", 0.3, few), ("a", 1.0, many), ("b", 0.3, many), ("b", 1.0, many))
    )
    summary = StudySummary(
        *("name", "about", {"wall": ""}, {"a": "", "b": ""}, {}, {}, (), (0, 1, 2), 12, 12, {}),
        *(rows, (compared(1.0, many, many), compared(0.3, few, many)), (), (), (), (), (), ()),
    )
    section = next(each for each in sections(summary) if each.title == "Success in wall")
    assert section.conclusions[0] == "No difference is shown at 100 % of the episodes among 1 pairs"
    assert section.conclusions[1].startswith("b is better than a (")
    assert section.conclusions[1].endswith(" at 30 % of the episodes")
    assert [table.header[0] for table in section.tables] == ["encoder", "rank", "pair"]
    assert section.tables[2].rows[0][1] == "+0.0"
