"""One training worker, from a dataset on disk to a trained state. The same for a laptop and for each Ray worker."""

from collections.abc import Callable, Iterator

import torch

from jepawm.checkpoints.model_folder import ModelSpec, model_dir, read_spec
from jepawm.config.training import TrainingPlan
from jepawm.data import EpisodeDataset, WindowSampler, compute_statistics
from jepawm.data.loading.feature_store import FeatureStore
from jepawm.data.loading.split import Split, held_out_windows, open_reader, sampled_batches, window_index
from jepawm.device import pick_device
from jepawm.errors import DataError
from jepawm.training.checkpoint import fresh_state, restore_training
from jepawm.training.diagnostics import COLLAPSED_STD, latent_diagnostics, validation
from jepawm.training.features import stored_features
from jepawm.training.fitted import fit_to_episodes, stated_statistics
from jepawm.training.loop import Hooks, Metrics, TrainingState, fit
from jepawm.types import Statistics, WindowBatch


def model_spec(plan: TrainingPlan, dataset: EpisodeDataset, split: Split) -> ModelSpec:
    """The specification of the model that a plan trains on a dataset.

    Raises:
        DataError: Published constants are asked for and the dataset has none.
        CheckpointError: `train.init_from` is no model folder.
    """
    if plan.train.init_from is not None:
        # The weights were trained on numbers that were normalised with these.
        statistics = read_spec(model_dir(plan.train.init_from)).statistics
    elif plan.data.statistics == "train_split":
        statistics = compute_statistics(dataset, split.train)
    else:
        published = dataset.spec.source.get("published_statistics")
        if published is None:
            raise DataError(
                f"{dataset.path}: no constants were published with these episodes; use --data.statistics train_split"
            )
        statistics = Statistics.from_dict(published)
    statistics = stated_statistics(statistics, plan.data, dataset)
    return ModelSpec(
        model=plan.model,
        image_size=plan.image_size,
        frameskip=plan.data.frameskip,
        statistics=statistics,
        action=dataset.spec.action,
        run=plan.run,
    )


def run_training(
    plan: TrainingPlan,
    dataset_path: str,
    *,
    rank: int = 0,
    world_size: int = 1,
    restore_from: str | None = None,
    stream: Callable[[int], Iterator[WindowBatch]] | None = None,
    on_metrics: Callable[[Metrics], None] | None = None,
    on_checkpoint: Callable[[TrainingState, ModelSpec, Metrics], object] | None = None,
    after_step: Callable[[], None] | None = None,
    stop: Callable[[int], bool] | None = None,
) -> TrainingState:
    """Trains a world model on a dataset, as one of `world_size` workers.

    Args:
        plan: What is trained, and how.
        dataset_path: A complete dataset.
        rank: Of this worker.
        world_size: Workers in all; the process group, if any, is set up already.
        restore_from: A checkpoint folder to continue.
        stream: This worker's batches from a train step on, where the loader is not an index sampler.
        on_metrics: Gets each record, on rank 0 only.
        on_checkpoint: Called on every worker when a checkpoint is due.
        after_step: Called after every update, see `jepawm.training.loop.Hooks`.
        stop: Whether training ends after this many updates, see `jepawm.training.loop.Hooks`.

    Returns:
        The state after the last update.

    Raises:
        DataError: A damaged dataset, or no window fits into its episodes.
        TrainingError: A loss that is not finite.
    """
    dataset = EpisodeDataset(dataset_path)
    split = Split.of(dataset, plan.data.held_out_fraction, plan.seed, plan.data.train_fraction)
    spec = model_spec(plan, dataset, split)
    device = pick_device(plan.device)
    state = fresh_state(plan, spec, device)
    if restore_from is not None:
        restore_training(restore_from, state)
    model = state.objective.model
    store = stored_features(model.encoder, plan.model.encoder, dataset, plan.data)
    if restore_from is None:
        fit_to_episodes(model, dataset, split.train, plan.data, store)
    if stream is not None:
        batches = stream(state.train_step)
    else:
        index = window_index(dataset, split.train, plan.data, plan.data.num_frames_in_window)
        reader = open_reader(plan.data, dataset, store)
        sampler = WindowSampler(len(index), plan.train.batch_size, seed=plan.seed, rank=rank, world_size=world_size)
        batches = sampled_batches(reader, index, sampler, state.train_step)
    hooks: Hooks[TrainingState] = Hooks(after_step=after_step, stop=stop)
    if rank == 0:
        hooks.on_metrics = on_metrics
        hooks.diagnose = _diagnosis(plan, dataset, split, device, store)
    if on_checkpoint is not None:
        hooks.on_checkpoint = lambda now, record: on_checkpoint(now, spec, record)
    return fit(state, batches, plan.train, plan.optim, device=device, hooks=hooks)


def _diagnosis(
    plan: TrainingPlan, dataset: EpisodeDataset, split: Split, device: torch.device, store: FeatureStore | None
) -> Callable[[TrainingState], Metrics] | None:
    count = plan.train.diagnostics_windows
    windows = held_out_windows(dataset, split, plan.data, seed=plan.seed, num_frames=1, num_windows=count, store=store)
    if windows is None or len(windows) < 2:
        return None
    names = dataset.spec.sim_state.names if dataset.spec.sim_state is not None else ()
    predicted = None
    if plan.train.prediction_windows:
        predicted = held_out_windows(
            dataset,
            split,
            plan.data,
            seed=plan.seed,
            num_frames=plan.data.num_frames_in_window,
            num_windows=plan.train.prediction_windows,
            store=store,
        )

    def diagnose(state: TrainingState) -> Metrics:
        model = state.objective.model
        with state.planning_weights():
            metrics: Metrics = dict(latent_diagnostics(model, windows, names, device))
            if predicted is not None and len(predicted) > 1:
                metrics.update(validation(model, predicted, device, seed=plan.seed))
        metrics["diagnostics/collapsed"] = float(metrics["diagnostics/latent_std_mean"] < COLLAPSED_STD)
        return metrics

    return diagnose
