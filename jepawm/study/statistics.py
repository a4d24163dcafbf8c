"""Rates over seeds, and which differences between encoders are more than noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jepawm.evaluation.metrics import CONFIDENCE, PairedTest, SuccessRate, holm, paired_test, success_rate

Solved = Mapping[int, Mapping[int, bool]]
"""Whether each episode was solved: by seed of the training, then by id of the episode."""


@dataclass(frozen=True)
class Spread:
    """A number over trainings that differ in their seed.

    Attributes:
        mean: Of the seeds' values.
        low, high: 95 % interval of the mean by Student's t, with one degree of freedom less than there are seeds; None
            where there is one seed.
        values: Of each seed.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


def over_seeds(values: Sequence[float]) -> Spread | None:
    """The spread of finite values; None where there is none."""
    from scipy.stats import t

    kept = tuple(value for value in values if math.isfinite(value))
    if not kept:
        return None
    mean, n = sum(kept) / len(kept), len(kept)
    if n == 1:
        return Spread(mean, None, None, kept)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in kept) / (n - 1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return Spread(mean, mean - half, mean + half, kept)


@dataclass(frozen=True)
class PooledRate:
    """A success rate of several trainings.

    Attributes:
        rate: Of all episodes of all seeds with Wilson's interval, which takes them for independent. They are not: those
            of one seed share a model, and every seed plays the same tasks.
        spread: Of the seeds' rates; how far trainings differ.
    """

    rate: SuccessRate
    spread: Spread


def pooled(solved: Solved) -> PooledRate:
    """Pools the episodes of all seeds.

    Args:
        solved: At least one seed with one episode.
    """
    each = [list(episodes.values()) for episodes in solved.values()]
    spread = over_seeds([sum(episodes) / len(episodes) for episodes in each])
    assert spread is not None, "rates are finite"
    return PooledRate(success_rate([outcome for episodes in each for outcome in episodes]), spread)


def is_above(one: PooledRate, other: PooledRate) -> bool:
    """Whether a rate is shown to be higher than another: intervals that are apart, and all of several seeds ahead.

    Args:
        one: Of trainings; a single one shows nothing.
        other: Of the same trainings elsewhere, or of random plans of one seed.
    """
    apart = one.rate.success_interval[0] > other.rate.success_interval[1]
    return apart and len(one.spread.values) > 1 and min(one.spread.values) > max(other.spread.values)


@dataclass(frozen=True)
class Pair:
    """Two encoders on the same episodes with trainings of the same seeds.

    Attributes:
        first, second: Their labels.
        paired: McNemar's test over all pairs of (seed, episode).
        by_seed: Success rate of the second minus that of the first, of each seed.
        adjusted_p_value: The test's p-value after Holm's correction for all pairs it was compared with.
    """

    first: str
    second: str
    paired: PairedTest
    by_seed: tuple[float, ...]
    adjusted_p_value: float

    @property
    def difference(self) -> float:
        """Success rate of the second minus that of the first."""
        return self.paired.difference

    @property
    def same_sign(self) -> bool:
        """Whether one of them is ahead in the trainings of every seed."""
        return all(each > 0 for each in self.by_seed) or all(each < 0 for each in self.by_seed)

    @property
    def is_shown(self) -> bool:
        """Whether the difference is more than noise.

        Holm's p-value is below 0.05, and one of the two is ahead in every one of several seeds. The test alone speaks
        of these trained models. That one is ahead whatever the seed says something of trainings, and one seed says
        nothing of them.
        """
        return self.adjusted_p_value < 1 - CONFIDENCE and self.same_sign and len(self.by_seed) > 1

    def verdict(self) -> str:
        """The conclusion in a sentence."""
        ahead, behind = (self.second, self.first) if self.difference > 0 else (self.first, self.second)
        seeds = f"{len(self.by_seed)} seed{'s' if len(self.by_seed) > 1 else ''}"
        numbers = f"{100 * abs(self.difference):.1f} points, p = {self.adjusted_p_value:.2g} after Holm"
        if self.is_shown:
            return f"{ahead} is better than {behind} ({numbers}; ahead in each of {seeds})"
        if self.difference == 0:
            return f"{self.first} and {self.second} have equal rates ({seeds})"
        if self.adjusted_p_value < 1 - CONFIDENCE:
            if len(self.by_seed) == 1:
                return f"{ahead} is ahead of {behind} ({numbers}) in one seed alone: not shown"
            return f"{ahead} is ahead of {behind} ({numbers}), but not in each of {seeds}: not shown"
        return f"{self.first} and {self.second} are not told apart ({ahead} is ahead by {numbers})"


def compare(outcomes: Mapping[str, Solved], pairs: Sequence[tuple[str, str]]) -> tuple[Pair, ...]:
    """Paired tests, corrected together.

    Args:
        outcomes: By label. Episodes of one id must be the same task in all of them.
        pairs: Which labels are compared; a pair without a common seed and episode is left out.

    Reference: McNemar 1947; Holm 1979 (see `jepawm.evaluation.metrics`).
    """
    found = [pair for first, second in pairs if (pair := _pair(first, second, outcomes)) is not None]
    adjusted = holm([pair.paired.p_value for pair in found])
    return tuple(replace(pair, adjusted_p_value=value) for pair, value in zip(found, adjusted, strict=True))


def _pair(first: str, second: str, outcomes: Mapping[str, Solved]) -> Pair | None:
    one, other = outcomes[first], outcomes[second]
    matched = {
        seed: [(one[seed][episode], other[seed][episode]) for episode in sorted(one[seed].keys() & other[seed].keys())]
        for seed in sorted(one.keys() & other.keys())
    }
    by_seed = {seed: pairs for seed, pairs in matched.items() if pairs}
    if not by_seed:
        return None
    test = paired_test(
        [a for pairs in by_seed.values() for a, _ in pairs], [b for pairs in by_seed.values() for _, b in pairs]
    )
    differences = tuple(sum(b - a for a, b in pairs) / len(pairs) for pairs in by_seed.values())
    return Pair(first, second, test, differences, test.p_value)


def all_pairs(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Every two of them, in their order."""
    return [(first, second) for at, first in enumerate(labels) for second in labels[at + 1 :]]


@dataclass(frozen=True)
class Rank:
    """A place in a ranking.

    Attributes:
        label: Of the encoder.
        rate: Its pooled rate.
        worse_than: Encoders that are shown to be better.
        not_told_apart_from: Encoders of which neither is shown.
    """

    label: str
    rate: PooledRate
    worse_than: tuple[str, ...]
    not_told_apart_from: tuple[str, ...]


def ranking(rates: Mapping[str, PooledRate], pairs: Sequence[Pair]) -> tuple[Rank, ...]:
    """Encoders by their pooled rate, the best first, with what the tests say of each place."""
    better: dict[str, list[str]] = {label: [] for label in rates}
    unclear: dict[str, list[str]] = {label: [] for label in rates}
    for pair in pairs:
        if pair.is_shown:
            ahead, behind = (pair.second, pair.first) if pair.difference > 0 else (pair.first, pair.second)
            better[behind].append(ahead)
        else:
            unclear[pair.first].append(pair.second)
            unclear[pair.second].append(pair.first)
    order = sorted(rates, key=lambda label: -rates[label].rate.success_rate)
    return tuple(Rank(label, rates[label], tuple(better[label]), tuple(unclear[label])) for label in order)
