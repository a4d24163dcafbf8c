"""The report of a study as sections of text, tables and plots; every sentence follows from the numbers."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jepawm.evaluation.pages import PLANNED, RANDOM
from jepawm.study.statistics import PooledRate, Spread, is_above
from jepawm.study.summary import Comparison, PredictionRow, StudySummary, SuccessRow

_COLOURS = ("#1f6feb", "#d1702f", "#17703a", "#8250df", "#a4262c", "#0b7285", "#b58900", "#5b6878")
_TARGETS = {"state": "state", "change_1": "change, from one frame", "change_2": "change, from two frames"}
_SOURCES = {"features": "frozen features", "latents": "latents that plan", "clips": "clip latents"}
_ABOVE = (
    "Two rates whose models are not paired are called different where their intervals have no number in common and "
    "every seed, of at least two, agrees."
)
_COST = {
    "encode_ms_per_frame": ("encode, ms a frame", 1),
    "decision_ms_p50": ("plan, ms an episode, p50", 1),
    "train_seconds": ("training, s", 1),
    "encoder_parameters": ("encoder, M parameters", 1e-6),
    "parameters": ("that train, M parameters", 1e-6),
    "peak_host_mib": ("peak memory, MiB", 1),
    "peak_gpu_mib": ("peak GPU memory, MiB", 1),
    "feature_bytes_per_frame": ("stored, KiB a frame", 1 / 1024),
    "latent_bytes_per_frame": ("latent, KiB a frame", 1 / 1024),
}


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


def sections(summary: StudySummary) -> list[Section]:
    """The report, in order; parts without numbers are left out."""
    found = [
        _what(summary),
        *(_ranking(summary, environment) for environment in summary.environments),
        _efficiency(summary),
        *(_ablation(summary, label) for label in summary.ablations),
        _prediction(summary),
        _probes(summary),
        _temporal(summary),
        _reconstruction(summary),
        _transfer(summary),
        _cost(summary),
    ]
    return [section for section in found if section is not None]


# -- numbers in words ------------------------------------------------------------------------------------------------


def percent(rate: PooledRate) -> str:
    """A pooled rate with Wilson's interval."""
    low, high = rate.rate.success_interval
    return f"{100 * rate.rate.success_rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def of_seeds(rate: PooledRate) -> str:
    """The rates of the seeds, and the interval of their mean."""
    each = ", ".join(f"{100 * value:.0f}" for value in rate.spread.values)
    if rate.spread.low is None or rate.spread.high is None or rate.spread.low == rate.spread.high:
        # Of equal rates of three trainings nobody knows how far the next one's lies.
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
    apart = [label for label in others if not _touch(known[best], known[label])]
    close = [label for label in others if label not in apart]
    kind = "highest" if highest else "lowest"
    text = f"{best} has the {kind} {what} ({spread(known[best])})"
    if not apart:
        return f"{text}, and the intervals over seeds tell it from no other encoder"
    return f"{text}, apart from {', '.join(apart)}" + (f" but not from {', '.join(close)}" if close else "")


def _touch(one: Spread, other: Spread) -> bool:
    """Whether two intervals over seeds have a number in common; without an interval that is left open."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return True
    return one.low <= other.high and other.low <= one.high


def _share(fraction: float) -> str:
    return f"{100 * fraction:g} %"


# -- sections --------------------------------------------------------------------------------------------------------


def _what(summary: StudySummary) -> Section:
    lines = [f"{summary.num_done} of {summary.num_trials} trials are done; seeds {', '.join(map(str, summary.seeds))}"]
    lines += [f"{name} failed: {error}" for name, error in summary.failed.items()]
    lines += [f"{label} was left out: its weights were not given" for label in summary.left_out]
    lines += [f"Beware: {text}" for text in summary.beware]
    rows = [("environment", label, about) for label, about in summary.environments.items()]
    rows += [("encoder", label, about) for label, about in summary.encoders.items() if label not in summary.left_out]
    rows += [("ablation", label, about) for label, about in summary.ablations.items()]
    rows += [("transfer", label, about) for label, about in summary.transfers.items()]
    return Section("What was compared", tuple(lines), (Table(("", "label", "what it is"), tuple(rows)),))


def _ranking(summary: StudySummary, environment: str) -> Section | None:
    rows = [row for row in summary.success if row.environment == environment]
    if not rows:
        return None
    tests = [each for each in summary.comparisons if each.environment == environment and each.what == "encoders"]
    best = max((each.fraction or 0.0 for each in tests), default=max(row.fraction for row in rows))
    conclusions: list[str] = []
    tables = [_success_table(rows)]
    for comparison in tests:
        if comparison.fraction == best:
            conclusions += _conclusions(comparison)
            tables += [_rank_table(comparison), _pair_table(comparison)]
    conclusions += [
        f"{row.encoder} at {_share(row.fraction)} is not shown to beat random plans "
        f"({percent(row.planned)} % against {percent(row.random)} %)"
        for row in rows
        if not is_above(row.planned, row.random)
    ]
    at_best = [row for row in rows if row.fraction == best]
    plots = (Plot(lambda axes: _draw_rates(axes, at_best), (8.0, 0.8 + 0.5 * len(at_best))),) if at_best else ()
    return Section(
        f"Success in {environment}",
        tuple(conclusions),
        tuple(tables),
        plots,
        (
            "Success in percent with Wilson's 95 % interval over all episodes of all seeds; it takes the episodes for "
            "independent, though those of one seed share a model. Beside it stands the rate of each seed, and the 95 % "
            "interval of their mean by Student's t.",
            "A difference is called shown where McNemar's test on the same episodes of the same seeds has p < 0.05 "
            "after Holm's correction for all pairs of the table, and one encoder is ahead in every one of at least two "
            "seeds. All else is noise as far as this study goes.",
            _ABOVE,
        ),
    )


def _success_table(rows: Sequence[SuccessRow]) -> Table:
    header = ("encoder", "share", "episodes", "success, % [95 %]", "of each seed, %", "random plans, %", "played")
    return Table(
        header,
        tuple(
            (
                row.encoder,
                _share(row.fraction),
                f"{row.train_episodes:.0f}",
                percent(row.planned),
                of_seeds(row.planned),
                percent(row.random),
                str(row.planned.rate.num_episodes),
            )
            for row in rows
        ),
    )


def _rank_table(comparison: Comparison) -> Table:
    header = ("rank", "encoder", "success, % [95 %]", "shown to be worse than", "not told apart from")
    return Table(
        header,
        tuple(
            (
                str(at),
                rank.label,
                percent(rank.rate),
                ", ".join(rank.worse_than) or "none",
                ", ".join(rank.not_told_apart_from) or "none",
            )
            for at, rank in enumerate(comparison.ranks, start=1)
        ),
    )


def _pair_table(comparison: Comparison) -> Table:
    header = ("pair", "the second is ahead by, points", "by seed", "only the first", "only the second", "p", "p, Holm")
    return Table(
        header,
        tuple(
            (
                f"{pair.first}, {pair.second}",
                f"{100 * pair.difference:+.1f}",
                ", ".join(f"{100 * each:+.0f}" for each in pair.by_seed),
                str(pair.paired.only_first),
                str(pair.paired.only_second),
                f"{pair.paired.p_value:.2g}",
                f"{pair.adjusted_p_value:.2g}",
            )
            for pair in comparison.pairs
        ),
    )


def _conclusions(comparison: Comparison) -> list[str]:
    """Every difference that is shown, and the number of those that are not."""
    shown = [pair.verdict() for pair in comparison.pairs if pair.is_shown]
    rest = len(comparison.pairs) - len(shown)
    at = "" if comparison.fraction is None else f" at {_share(comparison.fraction)} of the episodes"
    if not shown:
        return [f"No difference is shown{at} among {len(comparison.pairs)} pairs"]
    return [*shown, *([f"{rest} of {len(comparison.pairs)} pairs are not told apart{at}"] if rest else [])]


def _draw_rates(axes: Any, rows: Sequence[SuccessRow]) -> None:
    for at, row in enumerate(rows):
        for shift, colour, rate in ((-0.12, RANDOM, row.random), (0.12, PLANNED, row.planned)):
            axes.plot(rate.rate.success_interval, [at + shift] * 2, color=colour, linewidth=3, solid_capstyle="round")
            axes.plot(rate.rate.success_rate, at + shift, "o", color=colour)
        axes.plot(row.planned.spread.values, [at + 0.12] * len(row.planned.spread.values), "|", color="#1c2430")
    axes.set(xlim=(-0.02, 1.02), xlabel="success; grey: random plans; ticks: single seeds")
    axes.set(yticks=range(len(rows)), yticklabels=[row.encoder for row in rows])
    axes.invert_yaxis()


def _efficiency(summary: StudySummary) -> Section | None:
    tests = [each for each in summary.comparisons if each.what == "share of the episodes"]
    if not tests:
        return None
    conclusions = [f"{each.environment}: {pair.verdict()}" for each in tests for pair in each.pairs]
    curves = [
        (environment, [row for row in summary.success if row.environment == environment])
        for environment in summary.environments
    ]
    curves = [(environment, rows) for environment, rows in curves if rows]
    return Section(
        "Success against training episodes",
        tuple(conclusions),
        plots=(Plot(lambda axes: _draw_curves(axes, curves), (5.2 * len(curves), 3.6), len(curves)),),
        notes=(
            "A smaller share is a part of a larger one, and every share is trained with the same number of updates. "
            "Each encoder's shares are compared with its largest on the same episodes.",
        ),
    )


def _each_axes(axes: Any, number: int) -> list[Any]:
    return [axes] if number == 1 else list(axes)


def _draw_curves(axes: Any, curves: Sequence[tuple[str, Sequence[SuccessRow]]]) -> None:
    for place, (environment, rows) in zip(_each_axes(axes, len(curves)), curves, strict=True):
        for label, colour in _coloured(row.encoder for row in rows):
            own = [row for row in rows if row.encoder == label]
            x = [row.train_episodes for row in own]
            rates = [row.planned.rate for row in own]
            place.plot(x, [each.success_rate for each in rates], "o-", color=colour, label=label, markersize=4)
            low, high = ([each.success_interval[end] for each in rates] for end in (0, 1))
            place.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        place.set(xscale="log", ylim=(-0.02, 1.02), xlabel="training episodes", ylabel="success", title=environment)
        place.legend(frameon=False, fontsize=7)


def _coloured(labels: Any) -> list[tuple[str, str]]:
    return list(zip(dict.fromkeys(labels), itertools.cycle(_COLOURS), strict=False))


def _ablation(summary: StudySummary, label: str) -> Section | None:
    tests = [each for each in summary.comparisons if each.what == label]
    if not tests:
        return None
    conclusions, tables = [], []
    for each in tests:
        at = "" if each.fraction is None else f", {_share(each.fraction)}"
        conclusions += [f"{each.environment}{at}: {pair.verdict()}" for pair in each.pairs]
        tables.append(_pair_table(each))
    return Section(
        f"Ablation: {label}",
        tuple(conclusions),
        tuple(tables),
        notes=("Each arm is compared with the first; Holm corrects for the arms of one environment and share.",),
    )


def _prediction(summary: StudySummary) -> Section | None:
    if not summary.prediction:
        return None
    steps = sorted({row.model_steps for row in summary.prediction})
    by_place: dict[tuple[str, str, float], dict[int, PredictionRow]] = {}
    for row in summary.prediction:
        by_place.setdefault((row.environment, row.encoder, row.fraction), {})[row.model_steps] = row
    rows = tuple(
        (
            *(environment, encoder, _share(fraction)),
            *(spread(own[step].share if step in own else None) for step in steps),
            spread(own[max(own)].shuffled),
        )
        for (environment, encoder, fraction), own in by_place.items()
    )
    deaf = [
        f"{environment}, {encoder} at {_share(fraction)}: with shuffled actions the error after {max(own)} model steps "
        "is not shown to be larger, so the model is not shown to listen to its actions"
        for (environment, encoder, fraction), own in by_place.items()
        if _overlap(own[max(own)].share, own[max(own)].shuffled)
    ]
    last = [row for row in summary.prediction if row.model_steps == steps[-1]]
    leaders = [
        f"{environment}: {text}"
        for environment in summary.environments
        if (
            text := leader(
                {label: row.share for label, row in _at_largest(last, environment).items()},
                f"error after {steps[-1]} model steps",
                highest=False,
            )
        )
    ]
    header = ("environment", "encoder", "share", *(f"after {step}" for step in steps), f"{steps[-1]}, shuffled actions")
    return Section(
        "Prediction by horizon",
        (*leaders, *deaf),
        (Table(header, rows),),
        notes=(
            "Mean squared error of unrolled latents on held-out windows, divided by the error of no change over the "
            "same steps, so that latents of different size can stand beside each other: below 1 the model knows more "
            "than no change. Mean over seeds with the 95 % interval by Student's t.",
        ),
    )


def _overlap(one: Spread | None, other: Spread | None) -> bool:
    """Whether the first is not shown to be smaller; one seed shows nothing."""
    return one is None or other is None or _touch(one, other) or one.mean >= other.mean


def _at_largest(rows: Sequence[Any], environment: str) -> dict[str, Any]:
    """Of each encoder in an environment the row of its largest share."""
    found: dict[str, Any] = {}
    for row in rows:
        if row.environment == environment and (row.encoder not in found or row.fraction > found[row.encoder].fraction):
            found[row.encoder] = row
    return found


def _probes(summary: StudySummary) -> Section | None:
    rows = [row for row in summary.probes if row.target == "state"]
    if not rows:
        return None
    table = Table(
        ("environment", "encoder", "share", "read from", "mean R2", "worst R2", "worst number"),
        tuple(
            (
                *(row.environment, row.encoder, _share(row.fraction), _SOURCES[row.read_from]),
                *(spread(row.mean), spread(row.worst), row.worst_name),
            )
            for row in rows
        ),
    )
    leaders = [
        f"{environment}: {text}"
        for environment in summary.environments
        for source, name in _SOURCES.items()
        if (
            text := leader(
                {
                    label: row.mean
                    for label, row in _at_largest([row for row in rows if row.read_from == source], environment).items()
                },
                f"mean R2 from {name}",
                highest=True,
            )
        )
    ]
    return Section(
        "Linear probes of the simulator's state",
        tuple(leaders),
        tables=(table,),
        notes=(
            "R2 on held-out episodes of a ridge regression on frames of training episodes, its penalty chosen on a "
            "part of them. All shares are probed on the same frames. Frozen features hold what the encoder sees; "
            "latents that plan hold what a planner can measure.",
        ),
    )


def _temporal(summary: StudySummary) -> Section | None:
    rows = [row for row in summary.probes if row.target != "state"]
    if not rows:
        return None
    places: dict[tuple[str, str, float, str], dict[str, Spread]] = {}
    for row in rows:
        places.setdefault((row.environment, row.encoder, row.fraction, row.read_from), {})[row.target] = row.mean
    table = Table(
        ("environment", "encoder", "share", "read from", *(_TARGETS[name] for name in ("change_1", "change_2"))),
        tuple(
            (*place[:2], _share(place[2]), _SOURCES[place[3]], spread(own.get("change_1")), spread(own.get("change_2")))
            for place, own in places.items()
        ),
    )
    return Section(
        "Temporal task: how the state changed",
        tables=(table,),
        notes=(
            "Mean R2 of the change of the state over the last model step, read from the last frame's latent alone and "
            "from both frames'. A video encoder also reads both frames as one clip.",
        ),
    )


def _reconstruction(summary: StudySummary) -> Section | None:
    names = list(dict.fromkeys(name for row in summary.reconstruction for name in row.numbers))
    if not names:
        return None
    table = Table(
        ("environment", "encoder", *names),
        tuple(
            (row.environment, row.encoder, *(spread(row.numbers.get(name)) for name in names))
            for row in summary.reconstruction
        ),
    )
    return Section(
        "Reconstruction",
        tables=(table,),
        notes=(
            "Frames of held-out episodes drawn from the latents that plan by a decoder of the same kind, trained for "
            "the same number of updates. mse is of colours in [0, 1]; mse_mean_frame is that of always drawing the "
            "mean frame.",
        ),
    )


def _transfer(summary: StudySummary) -> Section | None:
    if not summary.transfer:
        return None
    table = Table(
        (
            "transfer",
            "trained on",
            "encoder",
            "at home, %",
            "there, %",
            "there, of each seed, %",
            "random plans there, %",
        ),
        tuple(
            (
                *(row.transfer, row.trained_on, row.encoder),
                *(percent(row.at_home), percent(row.elsewhere), of_seeds(row.elsewhere), percent(row.random)),
            )
            for row in summary.transfer
        ),
    )
    conclusions = []
    for row in summary.transfer:
        what = f"{row.transfer}, {row.encoder}"
        is_ahead = is_above(row.elsewhere, row.random)
        beats = "beats random plans there" if is_ahead else "is not shown to beat random plans there"
        lost = is_above(row.at_home, row.elsewhere)
        conclusions.append(f"{what}: {beats}, and {'is worse' if lost else 'is not shown to be worse'} than at home")
    return Section(
        "Transfer", tuple(conclusions), (table,), notes=("The same models, played without any training.", _ABOVE)
    )


def _cost(summary: StudySummary) -> Section | None:
    names = [name for name in _COST if any(name in row.numbers for row in summary.cost)]
    if not names:
        return None

    def cell(numbers: Mapping[str, Spread], name: str) -> str:
        return f"{numbers[name].mean * _COST[name][1]:.3g}" if name in numbers else "-"

    table = Table(
        ("environment", "encoder", *(_COST[name][0] for name in names)),
        tuple((row.environment, row.encoder, *(cell(row.numbers, name) for name in names)) for row in summary.cost),
    )
    return Section(
        "Cost",
        tables=(table,),
        notes=(
            "Means over seeds at the largest share. Times are of trials that may have shared the machine with others. "
            "Frames are encoded in windows as long as those that a plan begins with, 16 frames at once. "
            "Frozen encoders whose features are stored encode the episodes once, which is not part of the training.",
        ),
    )
