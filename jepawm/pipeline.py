"""One run from end to end: episodes -> a trained world model -> plans in the environment -> a report.

Each stage leaves its result in the run directory, and a run that was killed goes on from there:

```
RUN/
  config.yaml      resolved configuration          metrics.jsonl   training metrics, the truth
  recipe           name of the recipe              checkpoints/    resumable training states
  model/           the exported world model        eval.json       evaluation, machine-readable
  report.html      evaluation, for people          finished        empty; there once all of the above is
```
"""

import hashlib
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from jepawm.config import RunConfig, home, to_dict
from jepawm.config_io import flatten, load_yaml, save_yaml
from jepawm.console import Console
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.data.selection import choose_loader
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.report import write_report
from jepawm.runtime import Runtime, checkpoint_step, newest_checkpoint
from jepawm.tracking import METRICS_FILE, BackgroundTracker, MetricsFollower, MLflowSink, Record, read_metrics
from jepawm.training.checkpoint import export_model, load_world_model

FINISHED = "finished"


def prepare_run_dir(config: RunConfig, recipe: str) -> tuple[str, bool]:
    """Finds the run to continue, or makes a new one.

    Args:
        config: The resolved configuration.
        recipe: Its recipe's name, which begins a new run's name.

    Returns:
        The run directory and whether an earlier run continues there.

    Raises:
        ConfigError: `run_dir` holds a run of another configuration, or a finished or foreign one.
    """
    if config.run_dir is not None:
        folder = os.path.abspath(config.run_dir)
        if not os.path.isdir(folder) or not os.listdir(folder):
            return _new_run(folder, config, recipe), False
        _check_same_run(folder, config)
        return folder, True
    runs = os.path.join(home(), "runs")
    stem = os.path.basename(recipe).removesuffix(".yaml").removesuffix(".yml")
    if config.resume == "auto" and os.path.isdir(runs):
        for name in sorted(os.listdir(runs), reverse=True):
            folder = os.path.join(runs, name)
            if name.startswith(f"{stem}-") and not os.path.exists(os.path.join(folder, FINISHED)):
                try:
                    _check_same_run(folder, config)
                except ConfigError:
                    continue
                return folder, True
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = os.path.join(runs, f"{stem}-{stamp}-seed{config.seed}")
    suffix = 1
    while os.path.exists(folder):
        suffix += 1
        folder = os.path.join(runs, f"{stem}-{stamp}-seed{config.seed}-{suffix}")
    return _new_run(folder, config, recipe), False


def _new_run(folder: str, config: RunConfig, recipe: str) -> str:
    os.makedirs(folder, exist_ok=True)
    Path(folder, "recipe").write_text(recipe + "\n")
    save_yaml(config, os.path.join(folder, "config.yaml"))
    return folder


def _check_same_run(folder: str, config: RunConfig) -> None:
    known = os.path.join(folder, "config.yaml")
    if not os.path.isfile(known):
        raise ConfigError(f"run_dir {folder} is not empty and holds no run (no config.yaml); choose another")
    if config.resume == "never":
        raise ConfigError(f"run_dir {folder} holds a run already and --resume is 'never'; choose another directory")
    before = flatten(load_yaml(RunConfig, known).training_identity())
    now = flatten(config.training_identity())
    changed = [f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in now if now[key] != before.get(key)]
    if changed:
        raise ConfigError(
            f"run_dir {folder} holds a run of another configuration ({'; '.join(changed[:5])}); choose another "
            "directory, or repeat its settings"
        )


def run(config: RunConfig, recipe: str, runtime: Runtime, console: Console) -> dict[str, Any]:
    """Runs all stages.

    Args:
        config: The resolved configuration.
        recipe: Name of its recipe.
        runtime: Where the work happens.
        console: Where it is told.

    Returns:
        What `eval.json` holds.
    """
    run_dir, resumed = prepare_run_dir(config, recipe)
    console.say(f"run        {run_dir}{' (continued)' if resumed else ''}")
    console.say(f"runs on    {runtime.describe()}")
    tracker = BackgroundTracker(_mlflow_sink(config, run_dir))
    summary: Record | None = None
    artifacts: list[str] = []
    try:
        dataset_path = prepare_dataset(config, runtime, console)
        dataset = EpisodeDataset(dataset_path)
        checkpoint = _train(config, runtime, console, dataset, run_dir)
        model_dir = os.path.join(run_dir, "model")
        export_model(checkpoint, model_dir)
        result, frames = _evaluate(config, runtime, console, dataset, model_dir)
        with console.stage("report", ""):
            result["wall_s"] = dict(console.wall_s)
            result["recipe"], result["run_dir"] = recipe, run_dir
            result["mlflow_uri"] = _mlflow_uri(config) if config.tracking.mlflow else None
            eval_path, report_path = os.path.join(run_dir, "eval.json"), os.path.join(run_dir, "report.html")
            _write_json(eval_path, result)
            write_report(report_path, result, read_metrics(os.path.join(run_dir, METRICS_FILE)), frames)
        summary = _summary(result)
        artifacts = [eval_path, report_path, os.path.join(run_dir, "config.yaml")]
        Path(run_dir, FINISHED).touch()
    finally:
        tracker.close(summary, artifacts)
    _tell(result, report_path, console)
    return result


# -- stages ----------------------------------------------------------------------------------------------------------


def prepare_dataset(config: RunConfig, runtime: Runtime, console: Console) -> str:
    """The dataset a run trains on: collected, imported, or as given; what exists already is used as it is.

    Returns:
        Path of a complete dataset.
    """
    data = config.data
    if data.source == "dataset":
        assert data.path is not None
        return data.path
    if data.source == "pusht_zarr":
        return _import_pusht(config, console)
    # All that the episodes depend on names the dataset, so that runs which differ elsewhere share it.
    facts = [to_dict(config.env), config.seed, data.policy, data.num_episodes, data.env_steps_per_episode, data.codec]
    path = os.path.join(home(), "datasets", f"{_short_name(config.env.id)}-{data.policy}-{_hash(facts)}")
    if _is_complete(path):
        console.say(f"episodes   {path} (collected earlier)")
        return path
    with console.stage("collect", f"{data.num_episodes} episodes of {config.env.id}, policy {data.policy}"):
        with runtime.env_pool(config.env, config.scaling) as pool:
            told = pool.describe()
            spec = DatasetSpec(
                name=_short_name(config.env.id),
                control_hz=told.control_hz,
                pixels=PixelSpec(config.env.image_size, config.env.image_size, 3, data.codec),
                action=told.action,
                proprio=told.proprio,
                sim_state=told.sim_state,
                source={"env": to_dict(config.env), "policy": data.policy, "seed": config.seed},
            )
            with EpisodeWriter(path, spec, resume=True) as writer:
                done = writer.finished_episode_ids
                missing = [episode_id for episode_id in range(data.num_episodes) if episode_id not in done]
                episodes = pool.collect(
                    missing,
                    policy=data.policy,
                    seed=config.seed,
                    env_steps=data.env_steps_per_episode,
                    episodes_per_call=config.scaling.episodes_per_call,
                )
                with console.bar("episodes", data.num_episodes) as advance:
                    for count, episode in enumerate(episodes, start=data.num_episodes - len(missing) + 1):
                        writer.write(episode)
                        advance(count, "")
            for line in pool.log:
                console.say(f"   {line}")
    console.say(f"   {path}")
    return path


def _import_pusht(config: RunConfig, console: Console) -> str:
    from jepawm.data.importers.pusht_zarr import import_pusht_zarr

    source = os.path.abspath(str(config.data.path))
    if os.path.isdir(source):
        found = sorted(name for name in os.listdir(source) if name.endswith((".zarr", ".zarr.zip")))
        if len(found) == 1:
            source = os.path.join(source, found[0])
    if not os.path.exists(source):
        raise DataError(
            f"the Push-T demonstrations are not at {source}; pass --data.path PATH of pusht_cchi_v7_replay.zarr or its "
            "zip (Diffusion Policy, arXiv 2303.04137, publishes it)"
        )
    size = config.env.image_size
    facts = [source, os.path.getsize(source), int(os.path.getmtime(source)), config.data.num_episodes, size]
    path = os.path.join(home(), "datasets", f"pusht-human-{_hash([*facts, config.data.codec])}")
    if _is_complete(path):
        console.say(f"episodes   {path} (imported earlier)")
        return path
    with console.stage("import", f"Push-T human demonstrations from {source}"):
        with console.bar("frames", 1) as advance:
            import_pusht_zarr(
                source,
                path,
                image_size=size,
                max_episodes=config.data.num_episodes or None,
                progress=lambda done, total: advance(int(done == total), f"{done}/{total} frames"),
            )
    console.say(f"   {path}")
    return path


def _train(config: RunConfig, runtime: Runtime, console: Console, dataset: EpisodeDataset, run_dir: str) -> str:
    steps = config.train.num_train_steps
    finished = newest_checkpoint(os.path.join(run_dir, "checkpoints"))
    if checkpoint_step(finished) == steps:
        console.say(f"model      {finished} (trained earlier)")
        assert finished is not None
        return finished
    loader = choose_loader(config.data, dataset, local=config.local)
    share = config.train.batch_size // config.scaling.num_workers
    what = (
        f"{steps} train steps, global batch {config.train.batch_size} = {config.scaling.num_workers} worker(s) x {share}, "
        f"loader {loader}"
    )
    with console.stage("train", what), console.bar("train steps", steps) as advance:

        def show(record: Record) -> None:
            speed = record.get("train/windows_per_s", float("nan"))
            advance(record["train_step"], f"loss {record.get('train/loss', float('nan')):.3f}, {speed:.0f} windows/s")

        with MetricsFollower(os.path.join(run_dir, METRICS_FILE), show):
            checkpoint = runtime.train(config, str(dataset.path), run_dir)
    records = read_metrics(os.path.join(run_dir, METRICS_FILE))
    waits = [record["train/data_wait_fraction"] for record in records if "train/data_wait_fraction" in record]
    if waits and sum(waits) / len(waits) > 0.3:
        console.say(
            f"   training waited for data {100 * sum(waits) / len(waits):.0f} % of its time; data.loader 'cache' is the "
            "fastest where the decoded dataset fits on a local disk"
        )
    if any(record.get("diagnostics/collapsed") for record in records[-1:]):
        console.say("   WARNING: the latents have collapsed (diagnostics/latent_std_mean); plans will be worthless")
    return checkpoint


def _evaluate(
    config: RunConfig, runtime: Runtime, console: Console, dataset: EpisodeDataset, model_dir: str
) -> tuple[dict[str, Any], dict[int, Any]]:
    what = f"{config.evaluation.num_episodes} episodes, {', '.join(config.evaluation.protocols)}"
    # The width of the run that evaluates, not of the one that trained, decides where the model lives.
    model, _, spec = load_world_model(model_dir, _planning_device(config))
    with console.stage("evaluate", what), runtime.env_pool(config.env, config.scaling) as pool:
        result, frames = evaluate(config, model, spec, pool, dataset, model_dir=model_dir, console=console)
        for line in pool.log:
            console.say(f"   {line}")
    return result, frames


def _planning_device(config: RunConfig) -> torch.device:
    from jepawm.training.optim import pick_device

    return pick_device(config.device)


# -- small helpers ---------------------------------------------------------------------------------------------------


def _is_complete(path: str) -> bool:
    try:
        EpisodeDataset(path)
    except DataError:
        return False
    return True


def _short_name(env_id: str) -> str:
    return env_id.rsplit("/", 1)[-1].rsplit(":", 1)[-1].lower()


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def _write_json(path: str, data: dict[str, Any]) -> None:
    temporary = f"{path}.tmp"
    Path(temporary).write_text(json.dumps(data, indent=1, default=_plain))
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return asdict(value)


def _mlflow_uri(config: RunConfig) -> str:
    if config.tracking.mlflow_uri:
        return config.tracking.mlflow_uri
    os.makedirs(home(), exist_ok=True)
    return f"sqlite:///{os.path.join(home(), 'mlflow.db')}"


def _mlflow_sink(config: RunConfig, run_dir: str) -> MLflowSink | None:
    if not config.tracking.mlflow:
        return None
    return MLflowSink(
        run_dir,
        uri=_mlflow_uri(config),
        experiment=config.tracking.experiment,
        params=flatten(to_dict(replace(config, run_dir=run_dir))),
    )


def _summary(result: dict[str, Any]) -> Record:
    summary: Record = {"eval/success_rate": result["success_rate"], "eval/random": result["random"]["success_rate"]}
    for name, protocol in result["protocols"].items():
        summary[f"eval/{name}/success_rate"] = protocol["success_rate"]
    return summary


def _tell(result: dict[str, Any], report_path: str, console: Console) -> None:
    rate = lambda x: (  # noqa: E731
        f"{x['success_rate']:.3f} [{x['success_interval'][0]:.3f}, {x['success_interval'][1]:.3f}]"
    )
    console.say()
    console.say(f"{'protocol':<12} {'success rate [95 % interval]':<30} {'random plans':<24} plan ms per batch (p50)")
    for name, protocol in result["protocols"].items():
        console.say(
            f"{name:<12} {rate(protocol):<30} {rate(protocol['random']):<24} "
            f"{protocol['plan_ms_p50']:.0f} for {protocol['mean_plan_batch']:.0f} episodes"
        )
    if result.get("prediction"):
        first, last = result["prediction"][0], result["prediction"][-1]
        console.say(
            f"prediction  error as a share of persistence: {first['model'] / first['persistence']:.3f} after 1 model step, "
            f"{last['model'] / last['persistence']:.3f} after {last['model_steps']}"
        )
    console.say(
        f"{result['num_episodes']} episodes ({result['solved_at_start']} others were solved at the start and not counted)"
    )
    console.say("wall time   " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["wall_s"].items()))
    console.say(f"report      {report_path}")
    if result["mlflow_uri"]:
        console.say(f"MLflow      mlflow ui --backend-store-uri {result['mlflow_uri']}")
