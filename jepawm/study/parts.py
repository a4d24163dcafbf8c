"""What the report of a study is made of: sections of text, tables and plots, and numbers in words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jepawm.study.statistics import PooledRate, Spread

ABOVE = (
    "Two rates whose models are not paired are called different where their intervals have no number in common and "
    "every seed, of at least two, agrees."
)


@dataclass(frozen=True)
class Table:
    """Plain text in rows."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """What is drawn on matplotlib axes, one beside the other, at a size in inches."""

    draw: Callable[[Any], None]
    size: tuple[float, float]
    columns: int = 1


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Heading.
        conclusions: Sentences that follow from intervals and tests.
        tables: Numbers.
        plots: Shown in the page alone.
        notes: How the numbers were made.
    """

    title: str
    conclusions: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()


def percent(rate: PooledRate) -> str:
    """A pooled rate with Wilson's interval."""
    low, high = rate.rate.success_interval
    return f"{100 * rate.rate.success_rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def of_seeds(rate: PooledRate) -> str:
    """The rates of the seeds, and the interval of their mean."""
    each = ", ".join(f"{100 * value:.0f}" for value in rate.spread.values)
    if rate.spread.low is None or rate.spread.high is None or rate.spread.low == rate.spread.high:
        # Equal rates give an interval without width, which says nothing about the next training.
        return each
    return f"{each}; mean [{100 * max(0.0, rate.spread.low):.0f}, {100 * min(1.0, rate.spread.high):.0f}]"


def spread(value: Spread | None, digits: int = 3) -> str:
    """A mean with its interval over seeds."""
    if value is None:
        return "-"
    text = f"{value.mean:.{digits}g}"
    return text if value.low is None else f"{text} [{value.low:.{digits}g}, {value.high:.{digits}g}]"


def leader(values: Mapping[str, Spread | None], what: str, *, highest: bool) -> str | None:
    """Which encoder has the best mean over seeds, and whether its interval says so.

    Args:
        values: Of each encoder.
        what: The number, for the sentence.
        highest: Whether high values are good.
    """
    known = {label: value for label, value in values.items() if value is not None}
    if len(known) < 2:
        return None
    sign = 1 if highest else -1
    best = max(known, key=lambda label: sign * known[label].mean)
    others = [label for label in known if label != best]
    apart = [label for label in others if not touch(known[best], known[label])]
    close = [label for label in others if label not in apart]
    kind = "highest" if highest else "lowest"
    text = f"{best} has the {kind} {what} ({spread(known[best])})"
    if not apart:
        return f"{text}, and the intervals over seeds tell it from no other encoder"
    return f"{text}, apart from {', '.join(apart)}" + (f" but not from {', '.join(close)}" if close else "")


def touch(one: Spread, other: Spread) -> bool:
    """Whether two intervals over seeds have a number in common; without an interval that is left open."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return True
    return one.low <= other.high and other.low <= one.high


def share_in_words(fraction: float) -> str:
    """A share of the episodes in percent."""
    return f"{100 * fraction:g} %"


def is_not_smaller(one: Spread | None, other: Spread | None) -> bool:
    """Whether the first is not shown to be smaller; one seed shows nothing."""
    return one is None or other is None or touch(one, other) or one.mean >= other.mean
