"""Which trials are best, and which settings mattered."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepawm.config.tune import Mode
from jepawm.tuning.space import Choice, IntRange, LogUniform, Parameter, Space
from jepawm.tuning.trial import TrialRecord

Metrics = Sequence[tuple[str, Mode]]

# Fewer finished trials say nothing about importance.
FEWEST_FOR_IMPORTANCE = 8
_THIRDS = 3


def ranked(records: Sequence[TrialRecord], metrics: Metrics) -> list[TrialRecord]:
    """Finished trials with a finite value of the first metric, the best first.

    Of trials that are equal in it the better in the second metric comes first, then the earlier one.
    """

    def known(record: TrialRecord) -> bool:
        value = record.value(metrics[0][0])
        return record.status == "finished" and value is not None and math.isfinite(value)

    def key(record: TrialRecord) -> tuple[float, ...]:
        costs = []
        for metric, mode in metrics:
            value = record.value(metric)
            cost = math.inf if value is None or math.isnan(value) else -value if mode == "max" else value
            costs.append(cost)
        return (*costs, float(record.number))

    return sorted(filter(known, records), key=key)


def unbeaten(records: Sequence[TrialRecord], metrics: Metrics) -> list[TrialRecord]:
    """Trials that no other one beats: none is as good in every metric and better in one (the Pareto front)."""
    costs = {}
    for record in ranked(records, metrics):
        values = [record.value(metric) for metric, _ in metrics]
        if all(value is not None and math.isfinite(value) for value in values):
            signs = np.array([-1.0 if mode == "max" else 1.0 for _, mode in metrics])
            costs[record.number] = (record, signs * np.array(values))
    return [
        record
        for record, cost in costs.values()
        if not any((other <= cost).all() and (other < cost).any() for _, other in costs.values())
    ]


@dataclass(frozen=True)
class Importance:
    """How much a setting mattered by itself.

    Attributes:
        key: The setting.
        share: Share of the variance of ranks that groups of its values explain, corrected for chance, in [0, 1].
        p_value: How often chance alone would tell the groups apart as well (Kruskal-Wallis).
        groups: Each group of values in words, with its mean of the metric and its number of trials.
    """

    key: str
    share: float
    p_value: float
    groups: tuple[tuple[str, float, int], ...]


def importances(records: Sequence[TrialRecord], space: Space, metrics: Metrics) -> list[Importance]:
    """How much each setting matters by itself for the first metric, by the ranks of the finished trials.

    Trials are put into groups by the value of a setting: one for each choice, thirds of a range, and one for trials
    whose point leaves it out. The share is `(H - k + 1) / (n - k)` for Kruskal and Wallis' H of k groups of n trials,
    and 0 where that is negative. It sees no setting that matters only together with another one.

    Args:
        records: Of all trials.
        space: What was tried.
        metrics: The first one counts.

    Returns:
        Settings, the most important first; empty with fewer than `FEWEST_FOR_IMPORTANCE` finished trials, or where all
        of them found the same.

    Reference: Kruskal and Wallis 1952, Use of Ranks in One-Criterion Variance Analysis; Tomczak and Tomczak 2014, The
        need to report effect size estimates revisited.
    """
    from scipy.stats import kruskal

    finished = ranked(records, metrics)
    values = np.array([record.metrics[metrics[0][0]] for record in finished])
    if len(finished) < FEWEST_FOR_IMPORTANCE or np.ptp(values) == 0:
        return []
    found = []
    for key, parameter in space.parameters.items():
        if len(parameter.ends) == 1:
            continue
        groups: dict[str, list[float]] = {}
        for record, value in zip(finished, values, strict=True):
            groups.setdefault(_group(parameter, record.point, key), []).append(float(value))
        share, p_value = 0.0, 1.0
        if 1 < len(groups) < len(finished):
            statistic, p_value = kruskal(*groups.values())
            share = max(0.0, (statistic - len(groups) + 1) / (len(finished) - len(groups)))
        told = tuple((name, float(np.mean(each)), len(each)) for name, each in sorted(groups.items()))
        found.append(Importance(key, float(share), float(p_value), told))
    return sorted(found, key=lambda each: (-each.share, each.key))


def _group(parameter: Parameter, point: Mapping[str, Any], key: str) -> str:
    """The group of values that a point belongs to, in words."""
    if key not in point:
        return "left out"
    if isinstance(parameter, Choice):
        return json.dumps(point[key])
    if isinstance(parameter, IntRange) and parameter.high - parameter.low <= _THIRDS * parameter.step:
        return str(point[key])
    third = min(_THIRDS - 1, int(_THIRDS * as_number(parameter, point[key])))
    return f"{('lowest', 'middle', 'highest')[third]} third"


def as_number(parameter: Parameter, value: Any) -> float:
    """A value as its place in the parameter, 0 at one end and 1 at the other; -0.25 where a point leaves it out."""
    if value is None and not (isinstance(parameter, Choice) and None in parameter.options):
        return -0.25
    if isinstance(parameter, Choice):
        options = [_plain(option) for option in parameter.options]
        return options.index(_plain(value)) / max(1, len(options) - 1)
    low, high = parameter.ends
    if isinstance(parameter, LogUniform):
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _plain(option: Any) -> Any:
    return list(option) if isinstance(option, tuple) else option


def seconds_of(records: Sequence[TrialRecord]) -> Mapping[str, float]:
    """Trial-seconds by status."""
    totals: dict[str, float] = {}
    for record in records:
        totals[record.status] = totals.get(record.status, 0.0) + record.seconds
    return totals
