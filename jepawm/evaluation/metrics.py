"""Success rates with intervals, and whether two of them differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class SuccessRate:
    """A rate with its 95 % Wilson interval and the number of episodes it rests on."""

    success_rate: float
    success_interval: tuple[float, float]
    num_episodes: int

    def __str__(self) -> str:
        low, high = self.success_interval
        return f"{self.success_rate:.3f} [{low:.3f}, {high:.3f}] (n={self.num_episodes})"


def success_rate(solved: list[bool]) -> SuccessRate:
    """The share of solved episodes and its Wilson score interval.

    Args:
        solved: One outcome per episode, at least one.

    Reference: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    from scipy.stats import binomtest

    interval = binomtest(sum(solved), len(solved)).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return SuccessRate(sum(solved) / len(solved), (float(interval.low), float(interval.high)), len(solved))


def unbeaten(planned: SuccessRate, baselines: Mapping[str, SuccessRate]) -> tuple[str, ...]:
    """Baselines without search that planning does not beat: their intervals do not lie below the planner's."""
    lowest = planned.success_interval[0]
    return tuple(name for name, rate in baselines.items() if rate.success_interval[1] >= lowest)


def search_verdicts(planned: SuccessRate, baselines: Mapping[str, SuccessRate]) -> list[str]:
    """One sentence for each baseline that planning does not beat.

    Args:
        planned: What the planner reached.
        baselines: What policies that search nothing reached under the same rules, by the name of their head.
    """
    return [
        f"planning is not shown to be better than acting without search: {planned} against {baselines[name]} of the "
        f"head {name} alone"
        for name in unbeaten(planned, baselines)
    ]


@dataclass(frozen=True)
class PairedTest:
    """Two systems on the same episodes.

    Attributes:
        both, only_first, only_second, neither: Episodes solved by both, one alone, or neither.
        p_value: Of the exact McNemar test, two-sided: how often episodes that only one solves would fall at least as
            unevenly if both systems were equally good.
        episodes_needed: Episodes in all with which a difference as large as this one would be found with probability
            0.8 at a level of 0.05; None where the rates are equal, so that no number would do.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float
    episodes_needed: int | None

    @property
    def num_episodes(self) -> int:
        """Episodes in all."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Success rate of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.num_episodes


def paired_test(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Compares two systems on the same episodes.

    Args:
        first: Whether the first system solved each episode.
        second: The same of the second system, in the same order.

    Reference: McNemar 1947, Note on the sampling error of the difference between correlated proportions; for the number
        of episodes Connor 1987, Sample size for testing differences in proportions for the paired-sample design.
    """
    from scipy.stats import binomtest

    pairs = list(zip(first, second, strict=True))
    both, only_first, only_second, neither = (
        pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))
    )
    discordant = only_first + only_second
    return PairedTest(
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=neither,
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
        episodes_needed=_episodes_needed(only_first / len(pairs), only_second / len(pairs)),
    )


def unpaired_p_value(first: SuccessRate, second: SuccessRate) -> float:
    """P-value of Fisher's exact test, two-sided: for systems that played different episodes."""
    from scipy.stats import fisher_exact

    solved = [round(rate.success_rate * rate.num_episodes) for rate in (first, second)]
    table = [[number, rate.num_episodes - number] for number, rate in zip(solved, (first, second), strict=True)]
    return float(fisher_exact(table)[1])


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, raised so that the chance of one false finding among all stays at its level.

    Reference: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = least
    return adjusted


def _episodes_needed(share_first: float, share_second: float) -> int | None:
    """Pairs that a McNemar test needs, from the shares of episodes that one system alone solves."""
    from scipy.stats import norm

    difference, discordant = share_second - share_first, share_first + share_second
    if difference == 0:
        return None
    of_level, of_power = (float(norm.ppf(share)) for share in ((1 + CONFIDENCE) / 2, POWER))
    root = of_level * math.sqrt(discordant) + of_power * math.sqrt(discordant - difference**2)
    return math.ceil((root / difference) ** 2)
