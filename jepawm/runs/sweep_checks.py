"""What a sweep is asked for, and what is refused before anything starts: settings and points that cannot work."""

import json
import os
from dataclasses import dataclass, replace

from jepawm.checkpoints.model_folder import check_buildable
from jepawm.config import RunConfig, home, to_dict
from jepawm.config.places import local_path
from jepawm.config.tune import TuneConfig
from jepawm.errors import ConfigError, did_you_mean
from jepawm.runs.evaluation import trained_config
from jepawm.runs.points import settings_of, with_point
from jepawm.runs.preflight import check_as_trained, check_evaluation, check_run
from jepawm.runs.preflight.machine import check_disk
from jepawm.runs.preflight.training import checkpoint_bytes
from jepawm.runs.trial import check_rungs, of_training
from jepawm.tuning.points import in_words, needs_no_training, probes
from jepawm.tuning.search import Search, build_search
from jepawm.tuning.space import Space

# What an evaluation always gives, beside the numbers named eval/...
_PLAYED = ("success_rate", "decision_ms")


@dataclass(frozen=True)
class SweepRequest:
    """What a sweep is asked for.

    Attributes:
        config: The run that points change; `run_dir` names the sweep's folder.
        recipe: Name of its recipe.
        settings: Of the sweep.
        space: What is tried.
        model_dir: A trained model that trials plan with; None: each trial trains one.
        words: Flags of the command besides those of the sweep, for the command that repeats a trial.
    """

    config: RunConfig
    recipe: str
    settings: TuneConfig
    space: Space
    model_dir: str | None = None
    words: tuple[str, ...] = ()


def check_sweep(request: SweepRequest) -> Search:
    """Refuses a sweep that cannot work; builds its search.

    Raises:
        ConfigError: Says which setting, or which point, is wrong.
    """
    config, settings, space = request.config, request.settings, request.space
    planning = needs_no_training(space.parameters)
    if request.model_dir is None and planning:
        raise ConfigError(
            f"the space '{space.name}' changes nothing that training depends on, so every trial would train the same "
            "model; pass --model RUN, a trained one"
        )
    if request.model_dir is not None and not planning:
        other = next(key for key in space.parameters if not needs_no_training([key]))
        raise ConfigError(
            f"--model is given, and the space '{space.name}' has {other}, which takes a training; leave --model out"
        )
    if request.model_dir is not None and settings.scheduler.name != "none":
        raise ConfigError(
            f"tune.scheduler.name '{settings.scheduler.name}' ends trainings early, and with --model nothing is "
            "trained; leave it out"
        )
    if config.local and settings.scheduler.name != "none":
        raise ConfigError(
            f"--local runs one trial after the other, and tune.scheduler.name '{settings.scheduler.name}' compares "
            "trials that run at once; leave one of them out"
        )
    if config.local and (settings.max_concurrent or 1) > 1:
        raise ConfigError(
            f"--local runs one trial after the other; tune.max_concurrent must be 1, found {settings.max_concurrent}"
        )
    if config.max_gpu_hours is not None:
        raise ConfigError(
            "--max-gpu-hours ends one run at a checkpoint, and a trial that it ends counts as failed; leave it out, "
            "and lower tune.num_trials or train.num_train_steps"
        )
    _check_metrics(request)
    check_rungs(config, settings)
    if settings.scheduler.moves_checkpoints:
        _check_population(settings, space)
    if request.model_dir is not None:
        check_evaluation(replace(config, run_dir=None), trained_config(request.model_dir), request.model_dir)
    else:
        check_run(replace(config, run_dir=None))
    search = build_search(settings, space, settings_of(config))
    _check_points(request, search)
    return search


def _check_metrics(request: SweepRequest) -> None:
    """Refuses metrics that no trial will have."""
    config, settings = request.config, request.settings
    for key, (metric, _) in zip(("metric", "second_metric"), settings.metrics, strict=False):
        if of_training(metric):
            if request.model_dir is not None:
                raise ConfigError(f"tune.{key} '{metric}' is measured by training, and with --model nothing is trained")
            if not metric.startswith("train/") and config.data.held_out_fraction == 0:
                raise ConfigError(
                    f"tune.{key} '{metric}' is measured on held-out episodes, and data.held_out_fraction is 0"
                )
        elif metric not in _PLAYED and not metric.startswith("eval/"):
            raise ConfigError(
                f"tune.{key}: unknown '{metric}'{did_you_mean(metric, _PLAYED)}; name success_rate, decision_ms, "
                "eval/..., train/..., validation/... or diagnostics/..."
            )
        elif metric in _PLAYED and config.env.id == "none":
            raise ConfigError(
                f"tune.{key} is '{metric}', and env.id is 'none': nothing is played; judge by validation/error_1 "
                "(mode min), or set env.id"
            )


def _check_population(settings: TuneConfig, space: Space) -> None:
    """Refuses what a trial cannot change while it goes on with the weights of another one."""
    name = settings.scheduler.name
    for key, parameter in space.parameters.items():
        if not key.startswith(("optim.", "loss.")) or key.endswith(".name") or parameter.when:
            raise ConfigError(
                f"tune.scheduler.name '{name}' changes settings while weights stay, and {key} cannot change then: it "
                "takes settings of optim and loss that every point has (the space 'optimizer')"
            )
        if name == "pb2" and not all(isinstance(end, float) for end in parameter.ends):
            raise ConfigError(f"tune.scheduler.name 'pb2' takes ranges of real numbers; {key} is {parameter}")
        if any(end == 0 for end in parameter.ends) and key.startswith("loss."):
            raise ConfigError(f"{key} may be 0, where the model has other parts; begin its range above 0 for '{name}'")


def _check_points(request: SweepRequest, search: Search) -> None:
    """Refuses points that no run takes: those that are known, and else those at the borders of the space."""
    base, space = request.config, request.space
    settings = settings_of(base)
    points = search.points_known_before()
    at_ends = list(probes(space, settings))
    if not at_ends:
        raise ConfigError(f"no parameter of the space '{space.name}' has a meaning for this run")
    named = [(f"trial {number}", point) for number, point in enumerate(points)]
    named += [(f"space '{space.name}', {key} at one end", point) for key, point in at_ends]
    built: set[str] = set()
    place = local_path(base.run_dir) if base.run_dir else home()
    trained = None if request.model_dir is None else trained_config(request.model_dir)
    at_once = request.settings.max_concurrent or os.cpu_count() or 1
    if request.settings.scheduler.moves_checkpoints:
        at_once = search.num_trials
    for where, point in named:
        config = with_point(base, point, where)
        if request.model_dir is not None and trained is not None:
            check_as_trained(config, trained, request.model_dir)
            continue
        shape = json.dumps([to_dict(config.model), config.env.image_size, config.data.frameskip], sort_keys=True)
        if shape in built:
            continue
        built.add(shape)
        try:
            sizes = check_buildable(config.model, image_size=config.env.image_size, frameskip=config.data.frameskip)
        except ConfigError as error:
            raise ConfigError(f"{where} ({in_words(point)}): {error}") from error
        kept = at_once * config.train.checkpoints_on_disk * checkpoint_bytes(config, sizes)
        models = search.num_trials * 4 * sum(sizes.values())
        check_disk(
            {
                f"models of {search.num_trials} trials": (place, models),
                f"checkpoints of {at_once} at once": (place, float(kept)),
            }
        )
