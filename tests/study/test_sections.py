"""Sentences of the report follow from intervals."""

from jepawm.study.sections import leader, of_seeds, spread
from jepawm.study.statistics import PooledRate, over_seeds, pooled


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


def test_equal_rates_of_seeds_show_no_interval_that_would_be_a_point() -> None:
    def rate(*each: list[bool]) -> PooledRate:
        return pooled({seed: dict(enumerate(episodes)) for seed, episodes in enumerate(each)})

    assert of_seeds(rate([False] * 4, [False] * 4)) == "0, 0"
    assert of_seeds(rate([True, False], [False, False])) == "50, 0; mean [0, 100]"
