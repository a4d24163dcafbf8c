"""The best trials of a sweep on episodes that none of them was chosen by."""

import math
from dataclasses import replace
from pathlib import Path

from jepawm.config.tune import TuneConfig
from jepawm.console import Console
from jepawm.evaluation.result import EvaluationResult
from jepawm.runs.evaluation import EVAL_FILE, evaluate_model, read_result
from jepawm.runs.runtime import LocalRuntime
from jepawm.runs.trial import TrialJob, found_metrics
from jepawm.seeding import stream_seed
from jepawm.tuning.sweep_folder import Final


def fresh_seed(settings: TuneConfig, seed: int) -> int:
    """Seed of the episodes that no trial was chosen by.

    The task of episode i is drawn with `seed * i + 1`, so episodes of two seeds without a common factor meet first at
    number 0, which all seeds share, and then beyond number 1000.

    Args:
        settings: Of the sweep.
        seed: Of the episodes that trials are compared on.
    """
    fresh = 1009 + stream_seed(settings.seed, "tune final") % 8000
    while math.gcd(fresh, seed) > 1:
        fresh += 1
    return fresh


def evaluate_again(job: TrialJob, place: Path) -> Final:
    """Plays fresh episodes with the model of a trial that finished; what was played already is read.

    Args:
        job: The trial.
        place: Folder of the evaluation.
    """
    settings = job.settings
    evaluation = replace(
        job.config.evaluation,
        seed=fresh_seed(settings, job.config.evaluation.seed),
        num_episodes=settings.final_episodes,
        episodes=None,
        protocols=job.config.evaluation.protocols[:1],
        goal_offsets_env_steps=(),
    )
    # One process plays, however many trained.
    alone = replace(job.config.scaling, num_workers=1, min_workers=None)
    config = replace(job.config, local=True, run_dir=str(place), evaluation=evaluation, scaling=alone)
    path = place / EVAL_FILE
    fresh = read_result(str(path)) if path.is_file() else None
    if fresh is None or (fresh.seed, _episodes(fresh)) != (evaluation.seed, evaluation.num_episodes):
        model_dir = job.model_dir or str(job.folder.path / "model")
        fresh = evaluate_model(config, LocalRuntime(), Console(quiet=True), model_dir)
    before = read_result(str(job.folder.path / EVAL_FILE))
    assert before.played is not None, "there is an environment"
    assert fresh.played is not None, "there is an environment"
    value = found_metrics(fresh, None).get(settings.metric, math.nan)
    return Final(
        number=job.number,
        in_sweep=before.played.protocols[before.played.headline].planned.rate,
        fresh=fresh.played.protocols[fresh.played.headline].planned.rate,
        value=value if math.isfinite(value) else None,
        run_dir=str(place),
    )


def _episodes(result: EvaluationResult) -> int:
    return 0 if result.played is None else result.played.protocols[result.played.headline].planned.rate.num_episodes
