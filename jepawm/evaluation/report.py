"""`report.html`: one file, no network, what a person wants to know about a run in the order they ask it."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.result import EpisodeOutcome, EvaluationResult, HeldOut, Played, ProtocolReport

Record = dict[str, Any]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #d8dee6}
.big{font-size:2.4rem;font-weight:650}.muted{color:#5b6878}table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
th{font-weight:600;border-bottom:1px solid #d8dee6}
td.n{font-variant-numeric:tabular-nums}.rolls{display:flex;flex-wrap:wrap;gap:1rem}.roll{border:1px solid #d8dee6;
border-radius:6px;padding:.6rem}.roll img{image-rendering:pixelated;width:110px;height:110px;border:1px solid #eee}
.ok{color:#17703a;font-weight:600}.no{color:#a4262c;font-weight:600}details{margin:1rem 0}
pre{background:#f5f7fa;padding:.8rem;overflow:auto;font-size:12px}svg{max-width:100%;height:auto}
"""


def write_report(path: str, result: EvaluationResult, metrics: Sequence[Record], animations: dict[int, Record]) -> None:
    """Writes the report.

    Args:
        path: Of the HTML file.
        result: What was found.
        metrics: Records of `metrics.jsonl`.
        animations: For some episodes of the headline protocol, `rollout` frames `[F,Y,X,C]` and the `goal` `[Y,X,C]`.
    """
    parts = [
        _head(result),
        *(_played(result.played, animations) if result.played is not None else ()),
        "<h2>Training</h2>",
        _training(metrics),
        "<h2>Latent space</h2>",
        _latents(result.held_out.diagnostics, metrics),
        "<h2>Prediction on held-out episodes</h2>",
        _prediction(result.held_out),
        _drawn(result.held_out),
        "<h2>How to repeat this</h2>",
        _provenance(result),
    ]
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>jepawm: {html.escape(result.recipe)}</title><style>{_STYLE}</style></head><body>"
        f"{''.join(parts)}</body></html>"
    )
    Path(path).write_text(page, encoding="utf-8")


def _played(played: Played, animations: dict[int, Record]) -> list[str]:
    return [
        "<h2>Success</h2>",
        _success_table(played),
        _figure(lambda axes: _plot_success(axes, played), (7.0, 0.6 + 0.55 * len(played.protocols))),
        "<h2>Rollouts</h2>",
        _rollouts(played, animations),
    ]


def _percent(rate: SuccessRate) -> str:
    low, high = rate.success_interval
    return f"{100 * rate.success_rate:.1f} % <span class=muted>[{100 * low:.1f}, {100 * high:.1f}]</span>"


def _head(result: EvaluationResult) -> str:
    about = f"<p class=muted>{result.model.num_parameters:,} parameters. {html.escape(result.provenance.created)}.</p>"
    if result.played is None:
        assert result.dataset is not None, "without an environment there are held-out episodes"
        return (
            f"<h1>{html.escape(result.recipe)} <span class=muted>on {html.escape(result.dataset.path)}</span></h1>"
            f"<p>There is no environment to plan in; {len(result.dataset.held_out_episodes)} held-out episodes "
            f"judge the model.</p>{about}"
        )
    played = result.played
    headline = played.protocols[played.headline]
    rate = headline.planned.rate
    low, high = rate.success_interval
    env_id = html.escape(str(result.config["env"]["id"]))
    return (
        f"<h1>{html.escape(result.recipe)} <span class=muted>on {env_id}</span></h1>"
        f"<p><span class=big>{100 * rate.success_rate:.1f} %</span> solved of {rate.num_episodes} episodes "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %), protocol <b>{html.escape(played.headline)}</b>; "
        f"random plans: {_percent(headline.random.rate)}.</p>"
        f"<p class=muted>{played.solved_at_start} further tasks were solved before they began and are not counted. "
        f"{result.model.num_parameters:,} parameters. {html.escape(result.provenance.created)}.</p>"
    )


def _success_table(played: Played) -> str:
    rows = []
    for name, protocol in played.protocols.items():
        rules, planned, random = protocol.rules, protocol.planned, protocol.random
        how = (
            f"replan every {rules.replan_every} chunk(s), at most {rules.max_chunks}; solved at "
            f"{rules.success_at.replace('_', ' ')}; cost: {rules.cost}"
        )
        rows.append(
            f"<tr><td><b>{html.escape(name)}</b><br><span class=muted>{html.escape(how)}</span></td>"
            f"<td class=n>{_percent(planned.rate)}</td><td class=n>{_percent(random.rate)}</td>"
            f"{_baseline_cells(played, protocol)}"
            f"<td class=n>{planned.rate.num_episodes}</td>{_distance_cells(protocol)}"
            f"<td class=n>{planned.plan_ms_p50:.0f} / {planned.plan_ms_p95:.0f}</td></tr>"
        )
    unit = html.escape(played.distance_name)
    distance = f"<th>mean distance at the end, planned / random ({unit})</th>" if unit else ""
    learned = "".join(f"<th>{html.escape(name)} alone [95 %]</th>" for name in _baseline_names(played))
    return (
        f"<table><tr><th>protocol</th><th>planned [95 %]</th><th>random plans [95 %]</th>{learned}<th>episodes</th>"
        f"{distance}<th>ms per batch of plans, p50 / p95</th></tr>{''.join(rows)}</table>"
    )


def _baseline_names(played: Played) -> list[str]:
    """Policies that search nothing, in order."""
    return list(dict.fromkeys(name for protocol in played.protocols.values() for name in protocol.baselines))


def _baseline_cells(played: Played, protocol: ProtocolReport) -> str:
    results = [protocol.baselines.get(name) for name in _baseline_names(played)]
    return "".join(f"<td class=n>{'' if each is None else _percent(each.rate)}</td>" for each in results)


def _distance_cells(protocol: ProtocolReport) -> str:
    planned, random = protocol.planned.mean_distance, protocol.random.mean_distance
    return "" if planned is None or random is None else f"<td class=n>{planned:.3g} / {random:.3g}</td>"


def _rollouts(played: Played, animations: dict[int, Record]) -> str:
    if not animations:
        return "<p class=muted>None were recorded (evaluation.num_animations is 0).</p>"
    outcomes = {outcome.episode_id: outcome for outcome in played.protocols[played.headline].planned.episodes}
    cards = []
    for episode_id, item in animations.items():
        outcome = outcomes[episode_id]
        verdict = "<span class=ok>solved</span>" if outcome.solved else "<span class=no>not solved</span>"
        pictures = (("start", item["rollout"][:1]), ("goal", item["goal"][None]), ("rollout", item["rollout"]))
        images = "".join(
            f"<td><img alt='{name}' src='{_animation(frames)}'><br><span class=muted>{name}</span></td>"
            for name, frames in pictures
        )
        cards.append(
            f"<div class=roll>episode {episode_id}: {verdict} after {outcome.env_steps} environment steps, "
            f"{outcome.num_plans} plan(s){_varied(outcome)}<table><tr>{images}</tr></table></div>"
        )
    return f"<div class=rolls>{''.join(cards)}</div>"


def _varied(outcome: EpisodeOutcome) -> str:
    if not outcome.variation:
        return ""
    shown = ", ".join(f"{name} {value}" for name, value in outcome.variation.items())
    return f"<br><span class=muted>{html.escape(shown)}</span>"


def _animation(frames: np.ndarray, *, frame_ms: int = 80, hold_ms: int = 900) -> str:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    durations = [frame_ms] * (len(images) - 1) + [hold_ms]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format="WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, lossless=True
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _figure(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _plot_success(axes: Any, played: Played) -> None:
    names = list(played.protocols)
    for row, protocol in enumerate(played.protocols.values()):
        for offset, rate, colour, label in (
            (-0.12, protocol.planned.rate, "#1f6feb", "planned"),
            (0.12, protocol.random.rate, "#8b97a5", "random"),
        ):
            low, high = rate.success_interval
            axes.plot([low, high], [row + offset] * 2, color=colour, linewidth=3, solid_capstyle="round")
            axes.plot(rate.success_rate, row + offset, "o", color=colour, label=label if row == 0 else None)
    axes.set(xlim=(-0.02, 1.02), xlabel="success rate, 95 % interval", yticks=range(len(names)), yticklabels=names)
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(0.9, 0.5))


def _series(metrics: Sequence[Record], key: str) -> tuple[list[float], list[float]]:
    points = [(record["train_step"], record[key]) for record in metrics if key in record]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def _training(metrics: Sequence[Record]) -> str:
    if not metrics:
        return "<p class=muted>No training metrics in this run.</p>"
    terms = sorted(
        key
        for key in {key for record in metrics for key in record}
        if key.startswith("train/")
        and key.split("/")[1]
        not in ("learning_rate", "windows_per_s", "data_wait_fraction", "seconds", "gradient_norm")
    )

    def plot(axes: Any) -> None:
        for key in terms:
            steps, values = _series(metrics, key)
            axes.plot(steps, values, label=key.removeprefix("train/"), linewidth=2.2 if key == "train/loss" else 1.2)
        # At the first steps covariance terms are near 0; on a log axis they would squeeze all else.
        axes.set(yscale="log", xlabel="train step", ylabel="term before its weight")
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-3))
        axes.legend(frameon=False, ncols=3, fontsize=8)

    last = metrics[-1]
    speed = float(np.median([record["train/windows_per_s"] for record in metrics if "train/windows_per_s" in record]))
    wait = float(
        np.mean([record["train/data_wait_fraction"] for record in metrics if "train/data_wait_fraction" in record])
    )
    return _figure(plot, (8.0, 3.4)) + (
        f"<p>{last['train_step']} train steps in {last.get('train/seconds', float('nan')):.0f} s; "
        f"{speed:.0f} windows/s (median), {100 * wait:.1f} % of the time waiting for data.</p>"
    )


def _latents(diagnostics: Mapping[str, float], metrics: Sequence[Record]) -> str:
    keys = ["diagnostics/effective_rank", "diagnostics/latent_std_mean", "diagnostics/latent_std_min"]
    keys += sorted({key for record in metrics for key in record if key.startswith("diagnostics/probe_r2/")})

    def plot(axes: Any) -> None:
        for key in keys[1:]:
            steps, values = _series(metrics, key)
            axes.plot(steps, values, marker=".", label=key.removeprefix("diagnostics/"))
        axes.set(xlabel="train step", ylim=(min(0.0, *axes.get_ylim()), None))
        axes.legend(frameon=False, ncols=2, fontsize=8)

    rows = "".join(
        f"<tr><td>{html.escape(key.removeprefix('diagnostics/'))}</td><td class=n>{value:.4g}</td></tr>"
        for key, value in diagnostics.items()
    )
    figure = _figure(plot, (8.0, 2.8)) if any(key in record for record in metrics for key in keys) else ""
    if not rows:
        return figure or "<p class=muted>No episodes were held out, so nothing was measured.</p>"
    note = (
        "<p class=muted>On held-out frames. Standard deviation near 0 or effective rank near 1 mean collapse; "
        "probe_r2 is how much of a simulator number a linear probe reads from the latent (1 is all). The simulator's "
        "numbers are never a model input.</p>"
    )
    return f"{figure}{note}<table>{rows}</table>"


def _prediction(held_out: HeldOut) -> str:
    rows = held_out.prediction
    if not rows:
        return "<p class=muted>No episodes were held out, so nothing was measured.</p>"
    steps = [row.model_steps for row in rows]
    series = (
        ("model", "#1f6feb", "model, true actions"),
        ("shuffled_actions", "#d1702f", "model, another window's actions"),
        ("persistence", "#8b97a5", "persistence (nothing changes)"),
    )

    def plot(axes: Any) -> None:
        for key, colour, label in series:
            axes.plot(steps, [getattr(row, key) for row in rows], marker="o", color=colour, label=label)
        axes.axhline(rows[0].variance, color="#c9d1d9", linestyle=":", label="predicting the mean latent")
        axes.set(xlabel="model steps ahead", ylabel="mean squared error", xticks=steps, yscale="log")
        axes.legend(frameon=False, fontsize=8)

    body = "".join(
        f"<tr><td class=n>{row.model_steps}</td>"
        + "".join(f"<td class=n>{getattr(row, key):.4g}</td>" for key in ("model", "persistence", "shuffled_actions"))
        + f"<td class=n>{row.share_of_persistence:.3f}</td></tr>"
        for row in rows
    )
    return (
        _figure(plot, (7.0, 3.0))
        + "<table><tr><th>model steps</th><th>model</th><th>persistence</th><th>shuffled actions</th>"
        + f"<th>model / persistence</th></tr>{body}</table>"
        + f"<p class=muted>{held_out.prediction_windows} windows of {held_out.prediction_episodes} held-out "
        + "episodes.</p>"
    )


def _drawn(held_out: HeldOut) -> str:
    """How near the frames that heads draw from predictions are to the true ones."""
    tables = []
    for head, rows in held_out.images.items():
        names = [name for name in rows[0] if name != "model_steps"]
        titles = "".join(f"<th>{html.escape(name.upper())}</th>" for name in names)
        body = "".join(
            f"<tr><td class=n>{row['model_steps']:.0f}</td>"
            + "".join(f"<td class=n>{row[name]:.4g}</td>" for name in names)
            + "</tr>"
            for row in rows
        )
        tables.append(
            f"<p>Frames that the head <b>{html.escape(head)}</b> draws from predicted latents, against the true ones; "
            "0 model steps: from encoded latents. Colours are in [0, 1].</p>"
            f"<table><tr><th>model steps</th>{titles}</tr>{body}</table>"
        )
    return "".join(tables)


def _provenance(result: EvaluationResult) -> str:
    import yaml

    wall = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.wall_s.items())
    machine, versions = result.provenance.hardware, result.provenance.versions
    facts = {
        "wall time": wall,
        "run": result.run_dir,
        "model": f"{result.model.path} (sha256 {result.model.sha256[:16]})",
        "dataset": "" if result.dataset is None else result.dataset.path,
        "evaluation seed": result.seed,
        "code": result.provenance.git_revision or "not a git checkout",
        "hardware": f"{machine['cpu']}, {machine['cpu_cores']} cores, GPU: {machine['gpu']}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items()
    )
    config = html.escape(yaml.safe_dump(result.config, sort_keys=False))
    return (
        "<p>The configuration below is <code>config.yaml</code> of the run, and a recipe: "
        "<code>jepawm train --recipe RUN/config.yaml</code> repeats it.</p>"
        f"<table>{rows}</table><details><summary>configuration</summary><pre>{config}</pre></details>"
    )
