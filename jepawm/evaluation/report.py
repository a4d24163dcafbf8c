"""`report.html`: one file, no network, what a person wants to know about a run in the order they ask it."""

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.evaluation.image_goals_page import image_goals_parts
from jepawm.evaluation.other_runs import OtherRuns, other_runs_part
from jepawm.evaluation.pages import facts, figure, page, percent, table
from jepawm.evaluation.play import Animation
from jepawm.evaluation.played_page import played_parts
from jepawm.evaluation.result import EvaluationResult, HeldOut, PredictionRow

Record = dict[str, Any]


def write_report(
    path: str,
    result: EvaluationResult,
    metrics: Sequence[Record],
    animations: Mapping[int, Animation],
    others: OtherRuns | None = None,
) -> None:
    """Writes the report.

    Args:
        path: Of the HTML file.
        result: What was found.
        metrics: Records of `metrics.jsonl`.
        animations: Recorded episodes of the headline protocol, by episode id.
        others: Runs of the same experiment to link to.
    """
    parts = [
        _head(result),
        *(played_parts(result.played, animations) if result.played is not None else ()),
        *(image_goals_parts(result.image_goals, animations) if result.image_goals is not None else ()),
        *_published(result),
        "<h2>Training</h2>",
        _training(metrics),
        "<h2>Latent space</h2>",
        _latents(result.held_out.diagnostics, metrics),
        "<h2>Prediction on held-out episodes</h2>",
        _prediction(result.held_out),
        _drawn(result.held_out),
        "<h2>How to repeat this</h2>",
        _provenance(result),
        *(other_runs_part(others, os.path.dirname(os.path.abspath(path))) if others is not None else ()),
    ]
    Path(path).write_text(page(f"jepawm: {result.recipe}", parts), encoding="utf-8")


def _head(result: EvaluationResult) -> str:
    about = f"<p class=muted>{result.model.num_parameters:,} parameters. {html.escape(result.provenance.created)}.</p>"
    if result.image_goals is not None:
        env_id, number = html.escape(str(result.config["env"]["id"])), len(result.image_goals.episodes)
        return (
            f"<h1>{html.escape(result.recipe)} <span class=muted>on {env_id}</span></h1>"
            f"<p>{number} episodes towards pictures that a person gave.</p>{about}"
        )
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
        f"random plans: {percent(headline.random.rate)}.</p>"
        f"<p class=muted>{_solved_at_start(result)} "
        f"{result.model.num_parameters:,} parameters. {html.escape(result.provenance.created)}.</p>"
    )


def _solved_at_start(result: EvaluationResult) -> str:
    assert result.played is not None, "something was played"
    number = result.played.solved_at_start
    if result.config["evaluation"].get("solved_at_start") == "count":
        return f"{number} of them were solved before they began and are counted."
    return f"{number} further tasks were solved before they began and are not counted."


def _published(result: EvaluationResult) -> list[str]:
    """Which published evaluation this repeats, and in what it differs."""
    if result.published is None:
        return []
    told = result.published
    points = "".join(f"<li>{html.escape(each)}</li>" for each in (*told["differences"], *told["remarks"]))
    return [
        f"<h2>As published: {html.escape(told['name'])}</h2><p>Settings of {html.escape(told['paper'])}. This "
        f"evaluation differs in:</p><ul>{points}</ul>"
    ]


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
    return figure(plot, (8.0, 3.4)) + (
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
        axes.set(xlabel="train step", ylabel="standard deviation, or R² of a probe")
        axes.set(ylim=(min(0.0, *axes.get_ylim()), None))
        axes.legend(frameon=False, ncols=2, fontsize=8)

    plotted = figure(plot, (8.0, 2.8)) if any(key in record for record in metrics for key in keys) else ""
    if not diagnostics:
        return plotted or "<p class=muted>No episodes were held out, so nothing was measured.</p>"
    note = (
        "<p class=muted>On held-out frames, the same ones as in training: the table is the plot's last point. Standard "
        "deviation near 0 or effective rank near 1 mean collapse; probe_r2 is how much of a simulator number a linear "
        "probe reads from the latent (1 is all). The simulator's numbers are never a model input.</p>"
    )
    rows = [[html.escape(key.removeprefix("diagnostics/")), f"{value:.4g}"] for key, value in diagnostics.items()]
    return f"{plotted}{note}{table(['measure', 'value'], rows)}"


def _prediction(held_out: HeldOut) -> str:
    rows = held_out.prediction
    if not rows:
        return "<p class=muted>No episodes were held out, so nothing was measured.</p>"
    steps = [row.model_steps for row in rows]
    series = (
        ("model", "#1f6feb", "model, true actions"),
        ("shuffled_actions", "#d1702f", "model, another window's actions"),
        ("persistence", "#8b97a5", "persistence (the latent stays as it is)"),
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
        + f"<td class=n>{_share(row)}</td></tr>"
        for row in rows
    )
    return (
        figure(plot, (7.0, 3.0))
        + "<table><tr><th>model steps</th><th>model</th><th>persistence</th><th>shuffled actions</th>"
        + f"<th>model / persistence</th></tr>{body}</table>"
        + "<p class=muted>Below 1 the model predicts something; persistence predicts that nothing changes.</p>"
        + f"<p class=muted>{held_out.prediction_windows} windows of {held_out.prediction_episodes} held-out "
        + "episodes.</p>"
    )


def _share(row: PredictionRow) -> str:
    share = row.share_of_persistence
    return "none: no latent changed" if share is None else f"{share:.3f}"


def _drawn(held_out: HeldOut) -> str:
    """How near the frames that heads draw from predictions are to the true ones."""
    tables = []
    for head, rows in held_out.images.items():
        names = [name for name in rows[0] if name != "model_steps"]
        header = ["model steps", *(html.escape(name.upper()) for name in names)]
        body = [[f"{row['model_steps']:.0f}", *(f"{row[name]:.4g}" for name in names)] for row in rows]
        tables.append(
            f"<p>Frames that the head <b>{html.escape(head)}</b> draws from predicted latents, against the true ones; "
            f"0 model steps: from encoded latents. Colours are in [0, 1].</p>{table(header, body)}"
        )
    return "".join(tables)


def _provenance(result: EvaluationResult) -> str:
    import yaml

    wall = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.wall_s.items())
    machine, versions = result.provenance.hardware, result.provenance.versions
    told = {
        "wall time": wall,
        "run": result.run_dir,
        "model": f"{result.model.path} (sha256 {result.model.sha256[:16]})",
        "dataset": "" if result.dataset is None else result.dataset.path,
        "evaluation seed": result.seed,
        "code": result.provenance.git_revision or "not a git checkout",
        "hardware": f"{machine['cpu']}, {machine['cpu_cores']} cores, GPU: {machine['gpu']}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    if result.played is not None and result.played.host_log:
        told["hosts that died"] = "; ".join(result.played.host_log)
    config = html.escape(yaml.safe_dump(result.config, sort_keys=False))
    return (
        "<p>The configuration below is <code>config.yaml</code> of the run, and a recipe: "
        "<code>jepawm train --recipe RUN/config.yaml</code> repeats it.</p>"
        f"{facts((told | result.conditions).items())}"
        f"<details><summary>configuration</summary><pre>{config}</pre></details>"
    )
