"""Two or more evaluations beside each other: is a difference real, or noise?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from jepawm.config.yaml_io import flatten
from jepawm.errors import ConfigError
from jepawm.evaluation.metrics import CONFIDENCE, PairedTest, SuccessRate, holm, paired_test, unpaired_p_value
from jepawm.evaluation.outcomes import ProtocolResult
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
        decision_ms_p50: Median planning time of one episode in each, ms; None in files of earlier versions.
        differences: Each further evaluation beside the first.
    """

    protocol: str
    rates: Mapping[str, SuccessRate]
    random_rates: Mapping[str, SuccessRate]
    decision_ms_p50: Mapping[str, float | None]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Comparison:
    """Evaluations beside each other.

    Attributes:
        names: Of the evaluations; the first is what the others are compared with.
        protocols: Every protocol that at least two of them played.
        settings: Settings that differ: dotted key to one value for each evaluation.
        warnings: What makes the numbers less comparable than they look.
    """

    names: tuple[str, ...]
    protocols: tuple[ProtocolComparison, ...]
    settings: Mapping[str, tuple[Any, ...]]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "names": list(self.names),
            "protocols": [
                {**asdict(each), "verdicts": [item.verdict(self.names[0]) for item in each.differences]}
                for each in self.protocols
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
            protocols.append(_compare_protocol(protocol, played))
    if not protocols:
        told = "; ".join(f"{name}: {', '.join(result.protocols) or 'none'}" for name, result in results.items())
        raise ConfigError(
            f"no protocol was played by two of the evaluations ({told}); evaluate them with the same "
            "--evaluation.protocols"
        )
    return Comparison(names, tuple(protocols), _settings(results), tuple(_warnings(results)))


def _compare_protocol(protocol: str, results: Mapping[str, EvaluationResult]) -> ProtocolComparison:
    reports = {name: result.protocols[protocol] for name, result in results.items()}
    (first, of_first), *others = reports.items()
    differences = [
        _difference(name, of_first.planned, report.planned, is_paired=_same_tasks(results[first], results[name]))
        for name, report in others
    ]
    adjusted = holm([each.p_value for each in differences])
    return ProtocolComparison(
        protocol=protocol,
        rates={name: report.planned.rate for name, report in reports.items()},
        random_rates={name: report.random.rate for name, report in reports.items()},
        decision_ms_p50={name: report.planned.decision_ms_p50 for name, report in reports.items()},
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


def _same_tasks(first: EvaluationResult, second: EvaluationResult) -> bool:
    assert first.played is not None, "it played a protocol"
    assert second.played is not None, "it played a protocol"
    return first.played.tasks_sha256 == second.played.tasks_sha256


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
    others = [name for name, result in played.items() if not _same_tasks(played[first], result)]
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
