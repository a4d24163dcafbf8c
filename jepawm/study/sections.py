"""The report of a study as sections of text, tables and plots; every sentence follows from the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from jepawm.study.parts import ABOVE, Section, Table, is_not_smaller, leader, of_seeds, percent, share_in_words, spread
from jepawm.study.statistics import Spread, is_above
from jepawm.study.success import ablation, efficiency, ranking
from jepawm.study.summary import PredictionRow, StudySummary

_TARGETS = {"state": "state", "change_1": "change, from one frame", "change_2": "change, from two frames"}
_SOURCES = {"features": "frozen features", "latents": "latents that plan", "clips": "clip latents"}
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


def sections(summary: StudySummary) -> list[Section]:
    """The report, in order; parts without numbers are left out."""
    found = [
        _what(summary),
        *(ranking(summary, environment) for environment in summary.environments),
        efficiency(summary),
        *(ablation(summary, label) for label in summary.ablations),
        _prediction(summary),
        _probes(summary),
        _temporal(summary),
        _reconstruction(summary),
        _transfer(summary),
        _cost(summary),
    ]
    return [section for section in found if section is not None]


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


def _prediction(summary: StudySummary) -> Section | None:
    if not summary.prediction:
        return None
    steps = sorted({row.model_steps for row in summary.prediction})
    by_place: dict[tuple[str, str, float], dict[int, PredictionRow]] = {}
    for row in summary.prediction:
        by_place.setdefault((row.environment, row.encoder, row.fraction), {})[row.model_steps] = row
    rows = tuple(
        (
            *(environment, encoder, share_in_words(fraction)),
            *(spread(own[step].share if step in own else None) for step in steps),
            spread(own[max(own)].shuffled),
        )
        for (environment, encoder, fraction), own in by_place.items()
    )
    deaf = [
        f"{environment}, {encoder} at {share_in_words(fraction)}: with shuffled actions the error after {max(own)} "
        "model steps is not shown to be larger, so the model is not shown to listen to its actions"
        for (environment, encoder, fraction), own in by_place.items()
        if is_not_smaller(own[max(own)].share, own[max(own)].shuffled)
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
                *(row.environment, row.encoder, share_in_words(row.fraction), _SOURCES[row.read_from]),
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
            (
                *place[:2],
                share_in_words(place[2]),
                _SOURCES[place[3]],
                spread(own.get("change_1")),
                spread(own.get("change_2")),
            )
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
        "Transfer", tuple(conclusions), (table,), notes=("The same models, played without any training.", ABOVE)
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
