"""A model that improves itself: it collects episodes by planning, trains on them with all earlier ones, and is judged.

```
FOLDER/
  round-00/     the first run: its episodes, training and evaluation
  episodes-01/  those episodes and the new ones that the model of round 0 collected
  round-01/     training goes on from round 0 on episodes-01; judged on the episode set of round 0
  offline-01/   the same train steps on the first episodes alone, to compare with
  improve.json  one row for each of them
```
The same command goes on where it was stopped: finished runs and complete datasets are not made again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from jepawm.checkpoints.model_folder import load_world_model, weights_sha256
from jepawm.config import RunConfig, home, to_dict
from jepawm.config.compact import CompactEncoderConfig
from jepawm.config.improve import ImproveConfig
from jepawm.config.places import local_path
from jepawm.console import Advance, Console
from jepawm.data import EpisodeDataset
from jepawm.data.encoding import EncodedEpisode
from jepawm.data.loading.split import Split
from jepawm.device import pick_device
from jepawm.errors import ConfigError
from jepawm.evaluation.compare import compare
from jepawm.evaluation.goals import HeldOutEpisodes, draw_episodes
from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.planner_host import Game, PlannerHost
from jepawm.evaluation.planner_pool import ModelParcel
from jepawm.evaluation.practice import practised_episodes
from jepawm.evaluation.result import EvaluationResult
from jepawm.files import write_json
from jepawm.interrupts import telling_how_to_go_on
from jepawm.rollout import CollectPlan, EnvPool
from jepawm.runs.comparison import print_comparison
from jepawm.runs.directory import FINISHED, run_stem
from jepawm.runs.episodes import find_complete, find_dataset
from jepawm.runs.evaluation import EPISODES_FILE, EVAL_FILE, read_result
from jepawm.runs.grown_dataset import grown_dataset
from jepawm.runs.hosts import environment_hosts
from jepawm.runs.pipeline import run, started_runtime
from jepawm.runs.planner_hosts import pack_model, planner_hosts
from jepawm.runs.preflight import check_run
from jepawm.runs.runtime import Runtime
from jepawm.runs.tracking import tracked
from jepawm.seeding import stream_seed
from jepawm.storage.holding import held
from jepawm.tracking import MLflowSink, Outcome, TrackedRun, Tracker
from jepawm.tracking.mlflow_sink import Status
from jepawm.types import Episode

RESULT_FILE = "improve.json"


@dataclass(frozen=True)
class Round:
    """One trained and judged model.

    Attributes:
        name: Of its run.
        is_offline: Whether it saw the first episodes alone.
        num_episodes: Of its dataset, held-out ones included.
        train_steps: Since the first weights.
        weights_sha256: Of the model; the episodes that it collected carry it.
        success: Under the first protocol, on the episodes of every round.
    """

    name: str
    is_offline: bool
    num_episodes: int
    train_steps: int
    weights_sha256: str
    success: SuccessRate

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def improve(config: RunConfig, settings: ImproveConfig, recipe: str, console: Console) -> list[Round]:
    """Trains a model, and lets it collect and train in rounds; what cannot work is refused before Ray starts.

    Args:
        config: The first run.
        settings: The rounds.
        recipe: Name of the configuration's recipe.
        console: Where progress is shown.

    Returns:
        One row for each model, as `improve.json` holds them.

    Raises:
        ConfigError: A run without an environment, or settings that do not go together.
    """
    if config.env.id == "none":
        raise ConfigError("env.id is 'none': a model improves in an environment; set env.id")
    if config.evaluation.episodes is not None:
        raise ConfigError(
            "evaluation.episodes is set: every round is judged on the episode set of the first one, which is drawn; "
            "leave it out"
        )
    if config.evaluation.goal_source == "image":
        raise ConfigError(
            "evaluation.goal_source is 'image', and nothing says whether a picture was reached; take goals of the "
            "environment"
        )
    folder = Path(local_path(config.run_dir or _folder(config, settings, recipe))).absolute()
    first = replace(config, run_dir=str(folder / "round-00"))
    check_run(first)
    goes_on = "the same command goes on with the round that was interrupted"
    group = TrackedRun(str(folder), {"num_rounds": settings.num_rounds}, {"kind": "improvement", "recipe": recipe})
    sink = MLflowSink(group, Tracker.of(config.tracking)) if config.tracking.mlflow else None

    def outcome(status: Status) -> Outcome:
        return improvement_outcome(str(folder), status)

    with (
        telling_how_to_go_on(lambda: goes_on),
        held(str(folder), console.say),
        started_runtime(config, console) as runtime,
        tracked(sink, config.tracking, console, folder=str(folder), outcome=outcome),
    ):
        return _Improvement(first, settings, recipe, folder, group, runtime, console).run()


def improvement_outcome(folder: str, status: Status) -> Outcome:
    """What a tracker is told of all rounds: their table, and the success of each.

    Args:
        folder: Of the improvement.
        status: How it ended.
    """
    path = Path(folder, RESULT_FILE)
    if not path.is_file():
        return Outcome(status)
    rounds = json.loads(path.read_text("utf-8"))["rounds"]
    success = {f"{each['name']}/success_rate": float(each["success"]["success_rate"]) for each in rounds}
    return Outcome(status, success, {RESULT_FILE: str(path)})


def _folder(config: RunConfig, settings: ImproveConfig, recipe: str) -> str:
    """Beside the runs, named by everything that the rounds depend on; more rounds go on in the same folder."""
    facts = [to_dict(replace(config, local=False)), asdict(replace(settings, num_rounds=1))]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
    return os.path.join(home(), f"improve-{run_stem(config, recipe)}-{name}")


@dataclass(frozen=True)
class _Improvement:
    """The rounds of one command.

    Attributes:
        first: Configuration of round 0, with its run directory.
        settings: The rounds.
        recipe: Name of the recipe.
        folder: Of all rounds.
        group: The run of all rounds at the tracker.
        runtime: Where the work happens.
        console: Where progress is shown.
    """

    first: RunConfig
    settings: ImproveConfig
    recipe: str
    folder: Path
    group: TrackedRun
    runtime: Runtime
    console: Console

    def run(self) -> list[Round]:
        start = self.first
        results = {"round-00": self._judged(start)}
        first_dataset = find_dataset(start)
        assert first_dataset is not None, "the first run has trained on it"
        rounds = [self._row("round-00", results["round-00"], first_dataset, number=0)]
        dataset = first_dataset
        for number in range(1, self.settings.num_rounds + 1):
            dataset = self._grow(number, self._model(f"round-{number - 1:02d}"), dataset)
            arms = {f"round-{number:02d}": dataset}
            if self.settings.offline:
                arms[f"offline-{number:02d}"] = first_dataset
            for name, episodes in arms.items():
                before = name[:-2] + f"{number - 1:02d}" if number > 1 else "round-00"
                results[name] = self._judged(self._config(name, before, episodes))
                rounds.append(self._row(name, results[name], episodes, number=number))
            write_json(str(self.folder / RESULT_FILE), self._summary(rounds))
            self._print(rounds)
        self._say_difference(results)
        self.console.say(f"results    {self.folder / RESULT_FILE}")
        return rounds

    # -- training and judging ----------------------------------------------------------------------------------------

    def _judged(self, config: RunConfig) -> EvaluationResult:
        """Runs a round's run, or reads what it found earlier."""
        folder = Path(str(config.run_dir))
        path = folder / EVAL_FILE
        if (folder / FINISHED).exists() and path.is_file():
            self.console.say(f"{folder.name}   {folder} (finished earlier)")
            return read_result(str(path))
        return run(config, self.recipe, self.runtime, self.console, group=self.group)

    def _config(self, name: str, before: str, dataset: EpisodeDataset) -> RunConfig:
        """The run that goes on from another run's model, on a dataset, and is judged on the episodes of round 0."""
        first, steps = self.first, self.settings.train_steps_per_round
        encoder = first.model.encoder
        if isinstance(encoder, CompactEncoderConfig) and encoder.trains_base:
            # The encoder below is trained once, in the first run.
            encoder = replace(encoder, weights=str(self.folder / "round-00" / "base"))
        train = replace(first.train, init_from=str(self._model(before)))
        return replace(
            first,
            run_dir=str(self.folder / name),
            data=replace(first.data, source="dataset", path=str(dataset.path)),
            model=replace(first.model, encoder=encoder),
            train=train if steps is None else replace(train, num_train_steps=steps),
            evaluation=replace(
                first.evaluation,
                episodes=str(self.folder / "round-00" / EPISODES_FILE),
                goal_offsets_env_steps=(),
            ),
        )

    def _model(self, name: str) -> Path:
        return self.folder / name / "model"

    # -- collecting --------------------------------------------------------------------------------------------------

    def _grow(self, number: int, model_dir: Path, older: EpisodeDataset) -> EpisodeDataset:
        """The older episodes, and those that a model and the policy collect in a round."""
        path, config = str(self.folder / f"episodes-{number:02d}"), self.first
        there = find_complete(path)
        if there is not None:
            self.console.say(f"episodes   {path} (collected earlier)")
            return there
        model, spec = load_world_model(str(model_dir), pick_device(config.device))
        weights = weights_sha256(str(model_dir))
        split = Split.of(older, config.data.held_out_fraction, config.seed)

        def parcel() -> ModelParcel:
            return pack_model(model, spec, config.objective, config.subgoals, version=weights)

        planned, by_policy = self.settings.planned_episodes, self.settings.policy_episodes
        what = f"round {number}: {planned} episodes that the model plans, {by_policy} of policy {config.data.policy}"
        with (
            self.console.stage("collect", what),
            self.console.bar("episodes", planned + by_policy) as advance,
            environment_hosts(config, self.runtime, self.console) as pool,
            planner_hosts(config, self.runtime, parcel, self.console) as hosts,
        ):
            here = PlannerHost(model, spec, [pool], episodes_per_group=config.evaluation_plan().episodes_per_group)
            tasks = draw_episodes(
                replace(
                    config.evaluation,
                    seed=self._seed("tasks", number),
                    num_episodes=planned,
                    solved_at_start="pass_over",
                ),
                config.env,
                pool,
                # A round practises on states that training has seen; the held-out ones are for judging.
                HeldOutEpisodes.of(older, split.train),
                env_steps_to_goal=config.evaluation.goal_offset * config.data.frameskip,
            ).tasks
            first_id = int(older.episode_ids.max()) + 1
            practised = practised_episodes(
                here if hosts is None else hosts,
                self._game(number),
                pool,
                tasks,
                first_id=first_id,
                env_steps_per_frame=older.env_steps_per_frame,
                info={"round": number, "policy": "planner", "weights_sha256": weights},
            )
            collected: Iterator[Episode | EncodedEpisode] = chain(
                practised, self._by_policy(pool, number, first_id + planned)
            )
            return grown_dataset(path, older, split, _counted(collected, advance))

    def _by_policy(self, pool: EnvPool, number: int, first_id: int) -> Iterator[EncodedEpisode]:
        data = self.first.data
        plan = CollectPlan(
            data.policy,
            self._seed("policy", number),
            data.env_steps_per_episode,
            data.codec,
            data.env_steps_per_frame,
        )
        ids = range(first_id, first_id + self.settings.policy_episodes)
        for episode in pool.collect(ids, plan, episodes_per_call=self.first.scaling.episodes_per_call):
            yield replace(episode, info=episode.info | {"round": number})

    def _game(self, number: int) -> Game:
        """The first protocol, but episodes go on at the goal: all have the same length."""
        config = self.first
        protocol = getattr(config.evaluation, config.evaluation.protocols[0])
        cost = config.objective.weighting if protocol.cost is None else protocol.cost
        return Game(
            protocol=replace(protocol, success_at="episode_end"),
            planner=config.planner,
            objective=replace(config.objective, weighting=cost),
            seed=self._seed("plans", number),
            measures_distance=False,
        )

    def _seed(self, purpose: str, number: int) -> int:
        """Of one purpose in one round; below 2^31, as simulators want their seeds."""
        return stream_seed(self.first.seed, f"improve {purpose}", number) % 2**31

    # -- telling -----------------------------------------------------------------------------------------------------

    def _row(self, name: str, result: EvaluationResult, dataset: EpisodeDataset, *, number: int) -> Round:
        assert result.played is not None, "there is an environment"
        steps = self.first.train.num_train_steps
        return Round(
            name=name,
            is_offline=name.startswith("offline"),
            num_episodes=len(dataset),
            train_steps=steps + number * (self.settings.train_steps_per_round or steps),
            weights_sha256=result.model.sha256,
            success=result.played.protocols[result.played.headline].planned.rate,
        )

    def _summary(self, rounds: list[Round]) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "protocol": self.first.evaluation.protocols[0],
            "rounds": [each.to_dict() for each in rounds],
        }

    def _print(self, rounds: list[Round]) -> None:
        protocol = self.first.evaluation.protocols[0]
        self.console.say(f"{'':<12}{'episodes':>9}{'train steps':>13}  success rate [95 % interval], {protocol}")
        for each in rounds:
            self.console.say(f"{each.name:<12}{each.num_episodes:>9}{each.train_steps:>13}  {each.success}")

    def _say_difference(self, results: dict[str, EvaluationResult]) -> None:
        last = self.settings.num_rounds
        if self.settings.offline:
            pair = [f"offline-{last:02d}", f"round-{last:02d}"]
            print_comparison(compare({name: results[name] for name in pair}), self.console.say)


def _counted(episodes: Iterable[Episode | EncodedEpisode], advance: Advance) -> Iterator[Episode | EncodedEpisode]:
    for count, episode in enumerate(episodes, start=1):
        yield episode
        advance(count, "")
