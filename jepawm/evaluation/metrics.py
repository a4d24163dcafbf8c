"""Success rates, with intervals."""

from dataclasses import dataclass


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

    interval = binomtest(sum(solved), len(solved)).proportion_ci(confidence_level=0.95, method="wilson")
    return SuccessRate(sum(solved) / len(solved), (float(interval.low), float(interval.high)), len(solved))
