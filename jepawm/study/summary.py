"""All numbers of a study, from what its trials found: the contents of `study.json`, which both reports show."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jepawm.config.study import StudyConfig, StudyEncoderConfig
from jepawm.evaluation.outcomes import ProtocolResult
from jepawm.evaluation.result import EvaluationResult
from jepawm.study.statistics import (
    Pair,
    PooledRate,
    Rank,
    Solved,
    Spread,
    all_pairs,
    compare,
    over_seeds,
    pooled,
    ranking,
)


@dataclass(frozen=True)
class Outcome:
    """What one cell of the grid found.

    Attributes:
        environment, encoder, fraction, seed: Its place.
        train_episodes: Episodes it was trained on.
        train_seconds: Time in training, s.
        result: Its evaluation.
        probes: By what was read, `latents`, `features` or `clips`: see `jepawm.study.measures.latent_probes`; empty
            where nothing was probed.
        cost: See `jepawm.study.measures.encoding_cost`, and the peak of memory; empty where it was not measured.
        reconstruction: Held-out metrics of the decoder; empty where none was trained.
        transfers: By label: `solved` and `random`, whether each episode was solved, by id.
    """

    environment: str
    encoder: str
    fraction: float
    seed: int
    train_episodes: int
    train_seconds: float
    result: EvaluationResult
    probes: Mapping[str, Any]
    cost: Mapping[str, float]
    reconstruction: Mapping[str, float]
    transfers: Mapping[str, Mapping[str, Mapping[str, bool]]]


@dataclass(frozen=True)
class SuccessRow:
    """Success of an encoder in an environment at one share of the episodes; `random` plans of one seed beside it."""

    environment: str
    encoder: str
    fraction: float
    train_episodes: float
    protocol: str
    planned: PooledRate
    random: PooledRate


@dataclass(frozen=True)
class Comparison:
    """Paired tests that were corrected together.

    Attributes:
        environment: Where.
        what: `encoders`, an ablation's label, or `share of the episodes`.
        fraction: Share of the episodes that the labels were trained on; None where labels name it.
        ranks: The best first.
        pairs: Every test.
    """

    environment: str
    what: str
    fraction: float | None
    ranks: tuple[Rank, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class PredictionRow:
    """Held-out prediction error after some model steps, as a share of the error of no change.

    Attributes:
        environment, encoder, fraction: Where.
        model_steps: Predicted ahead.
        share: With the true actions.
        shuffled: With another window's actions.
    """

    environment: str
    encoder: str
    fraction: float
    model_steps: int
    share: Spread | None
    shuffled: Spread | None


@dataclass(frozen=True)
class ProbeRow:
    """R^2 of linear probes on held-out episodes.

    Attributes:
        environment, encoder, fraction: Where.
        read_from: `features` of the frozen encoder, `latents` that plans are made in, or `clips`.
        target: `state`, `change_1` (of the state over a model step, from one frame) or `change_2` (from two).
        mean: Over the numbers of the state that vary.
        worst: Of the number that is read worst on average.
        worst_name: Its name.
        by_name: Of each number.
    """

    environment: str
    encoder: str
    fraction: float
    read_from: str
    target: str
    mean: Spread
    worst: Spread
    worst_name: str
    by_name: Mapping[str, Spread | None]


@dataclass(frozen=True)
class NumbersRow:
    """Some numbers of an encoder in an environment, each over seeds."""

    environment: str
    encoder: str
    numbers: Mapping[str, Spread]


@dataclass(frozen=True)
class TransferRow:
    """Models that were trained in one place and played in another.

    Attributes:
        transfer: Its label.
        trained_on: Label of the environment.
        encoder: Label of the encoder.
        at_home: Success where they were trained.
        elsewhere: Success there.
        random: Of random plans there, of one seed.
    """

    transfer: str
    trained_on: str
    encoder: str
    at_home: PooledRate
    elsewhere: PooledRate
    random: PooledRate


@dataclass(frozen=True)
class StudySummary:
    """All numbers of a study.

    Attributes:
        name, about: Of the study.
        environments, encoders, ablations, transfers: Labels with a line each.
        left_out: Encoders without weights.
        seeds: Of the trainings.
        num_trials: In the grid, and how many of them are done.
        num_done: See `num_trials`.
        failed: Trials that failed, with the error.
        success, comparisons, prediction, probes, reconstruction, transfer, cost: The numbers.
        beware: What makes them less comparable than they look.
    """

    name: str
    about: str
    environments: Mapping[str, str]
    encoders: Mapping[str, str]
    ablations: Mapping[str, str]
    transfers: Mapping[str, str]
    left_out: tuple[str, ...]
    seeds: tuple[int, ...]
    num_trials: int
    num_done: int
    failed: Mapping[str, str]
    success: tuple[SuccessRow, ...]
    comparisons: tuple[Comparison, ...]
    prediction: tuple[PredictionRow, ...]
    probes: tuple[ProbeRow, ...]
    reconstruction: tuple[NumbersRow, ...]
    transfer: tuple[TransferRow, ...]
    cost: tuple[NumbersRow, ...]
    beware: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with each test's verdict."""
        data = asdict(self)
        for plain, comparison in zip(data["comparisons"], self.comparisons, strict=True):
            for each, pair in zip(plain["pairs"], comparison.pairs, strict=True):
                each |= {"difference": pair.difference, "is_shown": pair.is_shown, "verdict": pair.verdict()}
        return data


Place = tuple[str, str, float]


def summarise(
    study: StudyConfig, outcomes: Sequence[Outcome], *, num_trials: int, failed: Mapping[str, str]
) -> StudySummary:
    """The numbers of a study.

    Args:
        study: The study.
        outcomes: Of the cells that are done.
        num_trials: Cells in all.
        failed: Error of each trial that failed, by name.
    """
    places: dict[Place, list[Outcome]] = {}
    for each in outcomes:
        places.setdefault((each.environment, each.encoder, each.fraction), []).append(each)
    order = {label: at for at, label in enumerate([*study.environments, *study.encoders])}
    ordered = dict(sorted(places.items(), key=lambda item: (order[item[0][0]], order[item[0][1]], item[0][2])))
    largest = {(e, label): max(f for a, b, f in ordered if (a, b) == (e, label)) for e, label, _ in ordered}
    at_most = {place: each for place, each in ordered.items() if place[2] == largest[place[:2]]}
    return StudySummary(
        name=study.name,
        about=study.about,
        environments={label: each.about for label, each in study.environments.items()},
        encoders={label: _about(study.encoders[label]) for label in study.wanted},
        ablations={label: study.ablations[label].about for label in study.wanted_ablations},
        transfers={label: each.about for label, each in study.transfers.items()},
        left_out=study.left_out,
        seeds=tuple(sorted({each.seed for each in outcomes})),
        num_trials=num_trials,
        num_done=len(outcomes),
        failed=dict(failed),
        success=tuple(_success(*place, each) for place, each in ordered.items()),
        comparisons=tuple(_comparisons(study, ordered)),
        prediction=tuple(row for place, each in ordered.items() for row in _prediction(*place, each)),
        probes=tuple(row for place, each in ordered.items() for row in _probes(*place, each)),
        reconstruction=tuple(_numbers(at_most, lambda each: each.reconstruction)),
        transfer=tuple(_transfers(study, at_most)),
        cost=tuple(_numbers(at_most, _costs)),
        beware=tuple(_beware(study, outcomes)),
    )


def _about(encoder: StudyEncoderConfig) -> str:
    own = "weights of its own for each seed" if isinstance(encoder.weights, tuple) else ""
    return "; ".join(text for text in (encoder.about, own) if text)


# -- success ---------------------------------------------------------------------------------------------------------


def _headline(result: EvaluationResult) -> str:
    assert result.played is not None, "a study plays in environments"
    return result.played.headline


def _solved(protocol: ProtocolResult) -> dict[int, bool]:
    return {episode.episode_id: episode.solved for episode in protocol.episodes}


def _planned(outcomes: Sequence[Outcome]) -> Solved:
    return {each.seed: _solved(each.result.protocols[_headline(each.result)].planned) for each in outcomes}


def _success(environment: str, encoder: str, fraction: float, outcomes: Sequence[Outcome]) -> SuccessRow:
    protocol = _headline(outcomes[0].result)
    # Random plans know no model, so those of further seeds are hardly more than copies of the first one's.
    first = outcomes[0]
    random = {first.seed: _solved(first.result.protocols[_headline(first.result)].random)}
    return SuccessRow(
        *(environment, encoder, fraction),
        train_episodes=sum(each.train_episodes for each in outcomes) / len(outcomes),
        protocol=protocol,
        planned=pooled(_planned(outcomes)),
        random=pooled(random),
    )


def _comparisons(study: StudyConfig, places: Mapping[Place, Sequence[Outcome]]) -> list[Comparison]:
    """Encoders against each other, the arms of each ablation against its first, and shares against the largest."""
    found = []
    ranked = [label for label, each in study.encoders.items() if not each.only_in_ablations]
    for environment in study.environments:
        here = {(label, f): _planned(each) for (e, label, f), each in places.items() if e == environment}
        for fraction in sorted({f for _, f in here}, reverse=True):
            at = {label: solved for (label, f), solved in here.items() if f == fraction}
            groups = [("encoders", [label for label in ranked if label in at], False)]
            for name in study.wanted_ablations:
                reference, *others = study.ablations[name].arms
                if reference in at:
                    groups.append((name, [reference, *(arm for arm in others if arm in at)], True))
            for what, labels, against_first in groups:
                if len(labels) > 1:
                    pairs = [(labels[0], each) for each in labels[1:]] if against_first else all_pairs(labels)
                    found.append(
                        _comparison(environment, what, fraction, {label: at[label] for label in labels}, pairs)
                    )
        by_share = {f"{label} at {100 * f:g} %": solved for (label, f), solved in here.items()}
        pairs = []
        for label in dict.fromkeys(label for label, _ in here):
            shares = sorted(f for each, f in here if each == label)
            pairs += [(f"{label} at {100 * f:g} %", f"{label} at {100 * shares[-1]:g} %") for f in shares[:-1]]
        if pairs:
            found.append(_comparison(environment, "share of the episodes", None, by_share, pairs))
    return found


def _comparison(
    environment: str,
    what: str,
    fraction: float | None,
    outcomes: Mapping[str, Solved],
    pairs: Sequence[tuple[str, str]],
) -> Comparison:
    tests = compare(outcomes, pairs)
    ranks = ranking({label: pooled(solved) for label, solved in outcomes.items()}, tests)
    return Comparison(environment, what, fraction, ranks, tests)


def _transfers(study: StudyConfig, places: Mapping[Place, Sequence[Outcome]]) -> list[TransferRow]:
    rows = []
    for label, transfer in study.transfers.items():
        for (environment, encoder, _), outcomes in places.items():
            played = [each for each in outcomes if label in each.transfers]
            if environment != transfer.trained_on or not played:
                continue
            there = pooled({each.seed: _by_id(each.transfers[label]["solved"]) for each in played})
            random = pooled({played[0].seed: _by_id(played[0].transfers[label]["random"])})
            rows.append(TransferRow(label, environment, encoder, pooled(_planned(played)), there, random))
    return rows


def _by_id(solved: Mapping[str, bool]) -> dict[int, bool]:
    # JSON has no whole numbers as keys.
    return {int(episode): outcome for episode, outcome in solved.items()}


# -- everything else -------------------------------------------------------------------------------------------------


def _prediction(environment: str, encoder: str, fraction: float, outcomes: Sequence[Outcome]) -> list[PredictionRow]:
    by_step: dict[int, list[tuple[float, float]]] = {}
    for each in outcomes:
        for row in each.result.held_out.prediction:
            scale = row.persistence if row.persistence > 0 else math.nan
            by_step.setdefault(row.model_steps, []).append((row.model / scale, row.shuffled_actions / scale))
    return [
        PredictionRow(
            *(environment, encoder, fraction, step),
            share=over_seeds([share for share, _ in found]),
            shuffled=over_seeds([shuffled for _, shuffled in found]),
        )
        for step, found in sorted(by_step.items())
    ]


def _probes(environment: str, encoder: str, fraction: float, outcomes: Sequence[Outcome]) -> list[ProbeRow]:
    rows = []
    kinds = dict.fromkeys(
        (read_from, target)
        for each in outcomes
        for read_from, found in each.probes.items()
        for target in found
        if target != "width"
    )
    for read_from, target in kinds:
        found = [each.probes[read_from][target] for each in outcomes if target in each.probes.get(read_from, {})]
        by_name = {name: over_seeds([_number(each[name]) for each in found]) for name in found[0]}
        varying = {name: spread for name, spread in by_name.items() if spread is not None}
        if not varying:
            continue
        worst = min(varying, key=lambda name: varying[name].mean)
        means = [
            sum(values) / len(values)
            for each in found
            if (values := [_number(each[name]) for name in varying if math.isfinite(_number(each[name]))])
        ]
        mean = over_seeds(means)
        assert mean is not None, "a number varies"
        rows.append(ProbeRow(environment, encoder, fraction, read_from, target, mean, varying[worst], worst, by_name))
    return rows


def _number(value: float | None) -> float:
    # JSON has no NaN.
    return math.nan if value is None else float(value)


def _costs(outcome: Outcome) -> dict[str, float]:
    planned = outcome.result.protocols[_headline(outcome.result)].planned
    found = {**outcome.cost, "train_seconds": outcome.train_seconds}
    if planned.decision_ms_p50 is not None:
        found["decision_ms_p50"] = planned.decision_ms_p50
    return found


def _numbers(
    places: Mapping[Place, Sequence[Outcome]], of: Callable[[Outcome], Mapping[str, float]]
) -> list[NumbersRow]:
    rows = []
    for (environment, encoder, _), outcomes in places.items():
        found = [numbers for each in outcomes if (numbers := of(each))]
        names = dict.fromkeys(name for numbers in found for name in numbers)
        spreads = {name: over_seeds([_number(each.get(name)) for each in found]) for name in names}
        kept = {name: spread for name, spread in spreads.items() if spread is not None}
        if kept:
            rows.append(NumbersRow(environment, encoder, kept))
    return rows


def _beware(study: StudyConfig, outcomes: Sequence[Outcome]) -> list[str]:
    found = []
    for environment in study.environments:
        here = [each for each in outcomes if each.environment == environment and each.result.played is not None]
        for seed in sorted({each.seed for each in here}):
            tasks = {each.result.played.tasks_sha256 for each in here if each.seed == seed and each.result.played}
            if len(tasks) > 1:
                found.append(
                    f"{environment}, seed {seed}: the encoders played different tasks, so episodes of one id are not "
                    "pairs and the tests between them mean nothing"
                )
    seeds = {label: {each.seed for each in outcomes if each.encoder == label} for label in study.encoders}
    few = [label for label, those in seeds.items() if those and len(those) < 2]
    if few:
        found.append(f"{', '.join(few)}: one seed each, so how far trainings differ is not known")
    return found
