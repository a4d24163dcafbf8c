"""Several trained models, or several planner settings, evaluated as trials side by side and compared at the end.

```
GRID/
  sweep.json        models with the SHA-256 of their weights, settings       trials/NNN/   one evaluation each
  trials.jsonl      one line for each evaluation that is over                comparison.{html,json}
```
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.config import RunConfig, to_dict
from jepawm.config.places import evaluations_dir, local_path
from jepawm.config.tune import GridSearchConfig, TuneConfig
from jepawm.console import Console
from jepawm.errors import ConfigError, JepawmError
from jepawm.evaluation.compare import Comparison, compare
from jepawm.evaluation.compare_page import write_comparison
from jepawm.files import write_json
from jepawm.runs.comparison import print_comparison, short_names
from jepawm.runs.evaluation import EVAL_FILE, prepare_recordings, read_result, trained_config
from jepawm.runs.pipeline import started_runtime
from jepawm.runs.points import settings_of, with_point
from jepawm.runs.preflight import check_as_trained, check_evaluation, check_subgoals
from jepawm.runs.trials import Trials
from jepawm.runs.tune import begun, run_trials
from jepawm.tuning.description import SweepDescription
from jepawm.tuning.points import MODEL_KEY, needs_no_training
from jepawm.tuning.search import Search, build_search
from jepawm.tuning.space import Choice, Point, Space
from jepawm.tuning.sweep_folder import SweepFolder
from jepawm.tuning.trial import TrialRecord

COMPARISON_PAGE = "comparison.html"
COMPARISON_FILE = "comparison.json"
# Settings of `tune` that say where trials run, and nothing about what they find.
_OF_THE_PLACE = ("max_concurrent", "cpus_per_trial", "gpus_per_trial", "max_deaths")


@dataclass(frozen=True)
class GridRequest:
    """What is evaluated.

    Attributes:
        models: Model folder to the evaluation of that model: its own configuration with the settings that all have in
            common. The first one's `run_dir`, `local`, `device`, `scaling` and `tracking` hold for all.
        choices: Dotted key to the values that are tried, of planner, objective and subgoals; may be empty.
        settings: Where trials run (`max_concurrent`, `cpus_per_trial`, `gpus_per_trial`, `max_deaths`); the others of
            `tune` have no meaning here.
    """

    models: Mapping[str, RunConfig]
    choices: Mapping[str, Choice]
    settings: TuneConfig

    @property
    def config(self) -> RunConfig:
        """The evaluation of the first model."""
        return next(iter(self.models.values()))

    @property
    def trial_settings(self) -> TuneConfig:
        """Those of the trials: all combinations, and none is chosen and played again."""
        return replace(self.settings, search=GridSearchConfig(), num_final=0)

    @property
    def space(self) -> Space:
        """Models and settings; the last setting changes first."""
        return Space("evaluation", {MODEL_KEY: Choice(*self.models), **self.choices})


@dataclass(frozen=True)
class GridResult:
    """What the evaluations found.

    Attributes:
        folder: Their files.
        records: Of all trials, by number.
        comparison: Of the evaluations that finished, with the first one.
    """

    folder: Path
    records: tuple[TrialRecord, ...]
    comparison: Comparison


def evaluate_grid(request: GridRequest, console: Console) -> GridResult:
    """Evaluates every model with every combination of settings; what cannot work is refused before anything starts.

    The same request goes on where it was stopped. A model whose weights have changed since is another request.

    Args:
        request: What is evaluated.
        console: Where progress and the table are shown.

    Returns:
        What was found.

    Raises:
        ConfigError: Settings that do not go together, or a folder that holds something else.
        JepawmError: An evaluation failed; the others are compared before, if at least two finished.
    """
    search = _checked(request)
    description, config = _describe(request), request.config
    folder = SweepFolder(
        os.path.abspath(local_path(config.run_dir) if config.run_dir else _default_folder(description))
    )
    names = _names(request, search.points_known_before())
    with begun(folder, description, config, console, what="grid"):

        def say_found(record: TrialRecord) -> None:
            found = record.error or f"success rate {record.metrics['success_rate']:.3f}, {record.episodes} episodes"
            console.say(f"   {names[record.number]}: {found} ({record.seconds:.1f} s)")

        trials = Trials(folder, search, say_found)
        if trials.over:
            console.say(f"   {len(trials.over)} of {search.num_trials} evaluations are over from before")
        if trials.remaining:
            with started_runtime(config, console) as runtime:
                runtime.keep_log(str(folder.path))
                for model_dir, each in request.models.items():
                    prepare_recordings(each, runtime, console, model_dir)
                # Labels are those of the workers that trained the first model, and nothing is trained.
                placed = replace(config, scaling=replace(config.scaling, worker_labels=(), accelerator_type=None))
                with console.stage("trials", f"{search.num_trials} evaluations"):
                    run_trials(placed, request.trial_settings, request.space, trials, console.say)
        return _conclude(folder, trials.over, names, console)


# -- what is refused -------------------------------------------------------------------------------------------------


def _checked(request: GridRequest) -> Search:
    """Refuses what cannot work; the search over all combinations.

    Raises:
        ConfigError: Says which setting, or which model, is wrong.
    """
    other = next((key for key in request.choices if not needs_no_training([key])), None)
    if other is not None:
        raise ConfigError(
            f"--grid {other}: a grid varies how a trained model plans (planner, objective, subgoals, "
            "evaluation.nearest_starts); what all evaluations have in common is a flag of its own, and what takes a "
            "training is for jepawm tune"
        )
    given, plain = to_dict(request.settings), to_dict(TuneConfig())
    for name in given:
        if name not in _OF_THE_PLACE and given[name] != plain[name]:
            raise ConfigError(
                f"tune.{name} has no meaning for jepawm evaluate, which tries all combinations and chooses none; it "
                f"takes {', '.join(f'tune.{each}' for each in _OF_THE_PLACE)}"
            )
    if request.config.local and (request.settings.max_concurrent or 1) > 1:
        raise ConfigError(
            f"--local runs one evaluation after the other; tune.max_concurrent must be 1, found "
            f"{request.settings.max_concurrent}"
        )
    search = build_search(request.trial_settings, request.space, settings_of(request.config))
    points = search.points_known_before()
    if len(points) < 2:
        raise ConfigError("a grid of one evaluation compares nothing; leave --grid out and give its values as flags")
    for model_dir, config in request.models.items():
        if config.env.id == "none":
            raise ConfigError(f"{model_dir}: env.id is 'none', so nothing is played; evaluate this model by itself")
        trained = trained_config(model_dir)
        check_evaluation(replace(config, run_dir=None), trained, model_dir)
        for point in points:
            if point[MODEL_KEY] == model_dir:
                tried = with_point(config, _settings(point), f"--grid, model {model_dir}")
                check_as_trained(tried, trained, model_dir)
                check_subgoals(tried, model_dir)
    return search


def _settings(point: Point) -> Point:
    """A point without the model that it names."""
    return {key: value for key, value in point.items() if key != MODEL_KEY}


# -- names -----------------------------------------------------------------------------------------------------------


def _describe(request: GridRequest) -> SweepDescription:
    """What `sweep.json` keeps of a request."""
    models = {
        model_dir: {"weights_sha256": weights_sha256(model_dir), "config": to_dict(replace(config, run_dir=None))}
        for model_dir, config in request.models.items()
    }
    return SweepDescription(
        config=to_dict(replace(request.config, run_dir=None)),
        recipe=f"evaluation of {', '.join(request.models)}",
        model=None,
        space=request.space.to_dict(),
        space_name=request.space.name,
        words=(),
        settings=to_dict(request.trial_settings),
        models=models,
    )


def _default_folder(description: SweepDescription) -> str:
    """Beside other evaluations, named by everything that the numbers depend on."""
    facts = json.dumps(description.of_trials(), sort_keys=True)
    return os.path.join(evaluations_dir(), f"grid-{hashlib.sha256(facts.encode()).hexdigest()[:10]}")


def _names(request: GridRequest, points: Sequence[Point]) -> list[str]:
    """What each evaluation is called: the model where there are several, and the values of its settings."""
    own = dict(
        zip(request.models, short_names([each.removesuffix(f"{os.sep}model") for each in request.models]), strict=True)
    )
    last = [key.rpartition(".")[2] for key in request.choices]
    shown = {key: short if last.count(short) == 1 else key for key, short in zip(request.choices, last, strict=True)}
    names = []
    for point in points:
        model = [own[point[MODEL_KEY]]] if len(own) > 1 else []
        names.append(" ".join(model + [f"{shown[key]}={value}" for key, value in _settings(point).items()]))
    return names


# -- the end ---------------------------------------------------------------------------------------------------------


def _conclude(
    folder: SweepFolder, records: Sequence[TrialRecord], names: Sequence[str], console: Console
) -> GridResult:
    """Compares the evaluations that finished, and writes the page."""
    finished = [record for record in records if record.status == "finished"]
    failed = [record for record in records if record.status != "finished"]
    problem = ""
    if failed:
        problem = (
            f"{len(failed)} of {len(records)} evaluations of {folder.path} failed; {names[failed[0].number]}: "
            f"{failed[0].error}"
        )
    if len(finished) < 2:
        raise JepawmError(problem)
    results = {names[record.number]: read_result(str(Path(record.run_dir, EVAL_FILE))) for record in finished}
    comparison = compare(results)
    console.say()
    print_comparison(comparison, console.say)
    page = folder.path / COMPARISON_PAGE
    write_comparison(str(page), comparison)
    write_json(folder.path / COMPARISON_FILE, comparison.to_dict())
    console.say()
    console.say(f"page       {page}")
    console.say(f"numbers    {folder.path / COMPARISON_FILE}")
    if problem:
        raise JepawmError(problem)
    return GridResult(folder.path, tuple(records), comparison)
