"""Two or more evaluations beside each other: is a difference real, or noise?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from jepawm.config.yaml_io import flatten
from jepawm.errors import ConfigError
from jepawm.evaluation.metrics import (
    CONFIDENCE,
    PairedTest,
    SuccessRate,
    holm,
    paired_test,
    search_verdicts,
    unpaired_p_value,
)
from jepawm.evaluation.outcomes import ProtocolReport, ProtocolResult
from jepawm.evaluation.result import EvaluationResult

# Settings that say where a run lies and how it was scaled; they change no number.
_NO_CAUSE = ("run_dir", "name", "resume", "local", "scaling.", "tracking.")


@dataclass(frozen=True)
class Difference:
    """One evaluation beside the first, under one protocol.

    Attributes:
        name: Of the evaluation.
        difference: Its success rate minus that of the first.
        paired: What the same episodes say; None where the two played different ones.
        p_value: Of McNemar's exact test on the same episodes, else of Fisher's.
        adjusted_p_value: The same after Holm's correction for all comparisons under this protocol.
    """

    name: str
    difference: float
    paired: PairedTest | None
    p_value: float
    adjusted_p_value: float

    @property
    def is_real(self) -> bool:
        """Whether the difference is more than noise, at a level of 0.05 for all comparisons of the protocol."""
        return self.adjusted_p_value < 1 - CONFIDENCE

    def verdict(self, first: str) -> str:
        """What a person takes from it, in a sentence.

        Args:
            first: Name of the evaluation that it is compared with.
        """
        if self.difference == 0:
            return f"{self.name} and {first} have equal rates"
        better, worse = (self.name, first) if self.difference > 0 else (first, self.name)
        if self.is_real:
            return f"{better} is better than {worse} (p = {self.adjusted_p_value:.3g})"
        ahead = f"{better} is ahead by {abs(self.difference):.3f}"
        text = f"no difference is shown: {ahead} (p = {self.adjusted_p_value:.3g})"
        if self.paired is None or self.paired.episodes_needed is None:
            return text
        more = self.paired.episodes_needed - self.paired.num_episodes
        if more > 0:
            return f"{text}; if these rates are the true ones, about {more} more episodes would show it"
        return f"{text}; at these rates most evaluations of this size would show one"


@dataclass(frozen=True)
class ProtocolComparison:
    """All evaluations under one protocol.

    Attributes:
        protocol: Its name.
        rates: Success rate of each evaluation that played it.
        random_rates: Of the random plans beside each.
        baseline_rates: Of the policies that search nothing beside each, by the name of their head.
        decision_ms_p50: Median planning time of one episode in each, ms; None in files of earlier versions.
        differences: Each further evaluation beside the first.
    """

    protocol: str
    rates: Mapping[str, SuccessRate]
    random_rates: Mapping[str, SuccessRate]
    baseline_rates: Mapping[str, Mapping[str, SuccessRate]]
    decision_ms_p50: Mapping[str, float | None]
    differences: tuple[Difference, ...]

    def verdicts(self) -> list[str]:
        """What a person takes from it, in sentences: baselines that are not beaten, then each difference."""
        first = next(iter(self.rates))
        unbeaten = [
            f"{name}: {text}"
            for name, rate in self.rates.items()
            for text in search_verdicts(rate, self.baseline_rates[name])
        ]
        return [*unbeaten, *(each.verdict(first) for each in self.differences)]


@dataclass(frozen=True)
class DistanceComparison:
    """All evaluations that played goals at one distance.

    Attributes:
        goal_offset_env_steps: Env_steps from start to goal.
        played: The first protocol of the evaluations, at this distance.
    """

    goal_offset_env_steps: int
    played: ProtocolComparison


@dataclass(frozen=True)
class Comparison:
    """Evaluations beside each other.

    Attributes:
        names: Of the evaluations; the first is what the others are compared with.
        protocols: Every protocol that at least two of them played.
        settings: Settings that differ: dotted key to one value for each evaluation.
        warnings: What makes the numbers less comparable than they look.
        distances: Success against goal distance, of the evaluations that measured it; one entry a distance.
    """

    names: tuple[str, ...]
    protocols: tuple[ProtocolComparison, ...]
    settings: Mapping[str, tuple[Any, ...]]
    warnings: tuple[str, ...]
    distances: tuple[DistanceComparison, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "names": list(self.names),
            "protocols": [{**asdict(each), "verdicts": each.verdicts()} for each in self.protocols],
            "distances": [
                {
                    "goal_offset_env_steps": each.goal_offset_env_steps,
                    **asdict(each.played),
                    "verdicts": each.played.verdicts(),
                }
                for each in self.distances
            ],
            "settings": {key: list(values) for key, values in self.settings.items()},
            "warnings": list(self.warnings),
        }


def compare(results: Mapping[str, EvaluationResult]) -> Comparison:
    """Compares evaluations with the first one, protocol by protocol.

    Args:
        results: At least two evaluations by name.

    Returns:
        Rates, tests and the settings that differ.

    Raises:
        ConfigError: Fewer than two evaluations, or no protocol that two of them played.
    """
    if len(results) < 2:
        raise ConfigError(f"a comparison needs at least two evaluations, found {len(results)}")
    names = tuple(results)
    protocols = []
    for protocol in dict.fromkeys(name for result in results.values() for name in result.protocols):
        played = {name: result for name, result in results.items() if protocol in result.protocols}
        if len(played) > 1:
            reports = {name: _Report(result.protocols[protocol], _tasks(result)) for name, result in played.items()}
            protocols.append(_compare_protocol(protocol, reports))
    if not protocols:
        told = "; ".join(f"{name}: {', '.join(result.protocols) or 'none'}" for name, result in results.items())
        raise ConfigError(
            f"no protocol was played by two of the evaluations ({told}); evaluate them with the same "
            "--evaluation.protocols"
        )
    distances = _compare_distances(results)
    return Comparison(names, tuple(protocols), _settings(results), tuple(_warnings(results)), distances)


@dataclass(frozen=True)
class _Report:
    """What one evaluation played, and the SHA-256 of the tasks."""

    report: ProtocolReport
    tasks_sha256: str


def _tasks(result: EvaluationResult) -> str:
    assert result.played is not None, "it played a protocol"
    return result.played.tasks_sha256


def _compare_distances(results: Mapping[str, EvaluationResult]) -> tuple[DistanceComparison, ...]:
    """Evaluations at each distance that any of them played; one alone is compared with nothing, but shown."""
    found: dict[tuple[int, str], dict[str, _Report]] = {}
    for name, result in results.items():
        for point in () if result.played is None else result.played.distance_curve:
            assert result.played is not None, "it has a curve"
            key = (point.goal_offset_env_steps, result.played.headline)
            found.setdefault(key, {})[name] = _Report(point.report, point.tasks_sha256)
    return tuple(
        DistanceComparison(offset, _compare_protocol(f"{headline}, goals {offset} env_steps away", reports))
        for (offset, headline), reports in sorted(found.items())
    )


def _compare_protocol(protocol: str, reports: Mapping[str, _Report]) -> ProtocolComparison:
    (_, of_first), *others = reports.items()
    differences = [
        _difference(
            name,
            of_first.report.planned,
            each.report.planned,
            is_paired=of_first.tasks_sha256 == each.tasks_sha256,
        )
        for name, each in others
    ]
    adjusted = holm([each.p_value for each in differences])
    return ProtocolComparison(
        protocol=protocol,
        rates={name: each.report.planned.rate for name, each in reports.items()},
        random_rates={name: each.report.random.rate for name, each in reports.items()},
        baseline_rates={name: each.report.baseline_rates for name, each in reports.items()},
        decision_ms_p50={name: each.report.planned.decision_ms_p50 for name, each in reports.items()},
        differences=tuple(replace(each, adjusted_p_value=p) for each, p in zip(differences, adjusted, strict=True)),
    )


def _difference(name: str, first: ProtocolResult, second: ProtocolResult, *, is_paired: bool) -> Difference:
    difference = second.rate.success_rate - first.rate.success_rate
    if not is_paired:
        p_value = unpaired_p_value(first.rate, second.rate)
        return Difference(name, difference, None, p_value, p_value)
    solved = [{episode.episode_id: episode.solved for episode in each.episodes} for each in (first, second)]
    paired = paired_test(*([by_id[episode_id] for episode_id in sorted(by_id)] for by_id in solved))
    return Difference(name, difference, paired, paired.p_value, paired.p_value)


def _settings(results: Mapping[str, EvaluationResult]) -> dict[str, tuple[Any, ...]]:
    flat = [flatten(dict(result.config)) for result in results.values()]
    keys = dict.fromkeys(key for each in flat for key in each)
    return {
        key: tuple(each.get(key) for each in flat)
        for key in keys
        if not key.startswith(_NO_CAUSE) and any(each.get(key) != flat[0].get(key) for each in flat)
    }


def _warnings(results: Mapping[str, EvaluationResult]) -> list[str]:
    played = {name: result for name, result in results.items() if result.played is not None}
    first = next(iter(played))
    warnings = []
    others = [name for name, result in played.items() if _tasks(played[first]) != _tasks(result)]
    if others:
        warnings.append(
            f"{', '.join(others)} played other episodes than {first}: episodes cannot be paired, and a difference may "
            "be one of the tasks; evaluate with the same --evaluation.episodes FILE"
        )
    for protocol in dict.fromkeys(name for result in played.values() for name in result.protocols):
        rules = {
            name: result.protocols[protocol].rules for name, result in played.items() if protocol in result.protocols
        }
        if len(set(map(str, rules.values()))) > 1:
            warnings.append(f"{protocol} has other rules (replanning, budget, what counts as solved) in some of them")
    if len({result.model.sha256 for result in results.values()}) > 1:
        warnings.append(
            "each rate is of one training; how far trainings with other seeds differ is no part of these intervals"
        )
    return warnings
