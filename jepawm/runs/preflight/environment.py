"""Whether an environment exists, and whether recorded episodes and trained models belong to it."""

import inspect
import os

import numpy as np

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import DataConfig, EnvConfig, ModelConfig, ObjectiveConfig, RunConfig
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError
from jepawm.rollout import EnvDescription, EnvHost
from jepawm.rollout.make import EnvFactory, find_env
from jepawm.runs.runtime import import_triton_before_mesa
from jepawm.types import ActionSpec, VectorSpec

# Modules of environments with a robot simulator, and of those that are made of recordings.
NOT_CHEAP = {"envs.simulator_env", "envs.droid"}
# Episodes whose actions are compared with the environment's bounds.
NUM_COMPARED_EPISODES = 200
# Recorded actions may leave the environment's bounds by this share of the bounds' width; a share of them may lie
# further out (SHARE_OUTSIDE), for recordings have outliers.
MARGIN = 0.25
SHARE_OUTSIDE = 0.01


def check_environment(env: EnvConfig) -> EnvDescription | None:
    """Refuses an environment that does not exist, and one that cannot be made where that is cheap to know.

    Args:
        env: The environment.

    Returns:
        Its description where it was made here; None for `none`, for environments that are not cheap to make, and for
        those that have an interpreter of their own.

    Raises:
        ConfigError: `env.python` is no program.
        EnvironmentFault: No such module, id or class; a wrong option.
        MissingDependencyError: A package that the environment needs is not installed.
    """
    if env.id == "none":
        return None
    if env.python is not None:
        program = os.path.expanduser(env.python)
        if not (os.path.isfile(program) and os.access(program, os.X_OK)):
            raise ConfigError(
                f"env.python {env.python} is no program; make a Python with: jepawm env python FOLDER PACKAGE==VERSION"
            )
        return None
    import_triton_before_mesa()
    if not _is_cheap(find_env(env.id)):
        return None
    host = EnvHost(env)
    try:
        return host.describe()
    finally:
        host.close()


def _is_cheap(found: EnvFactory) -> bool:
    """Whether an environment may be made once more than it is needed: one of ours without a robot simulator.

    Simulators of others may be slow, large, or able to exist only once in a process, so only hosts make them.
    """
    modules = {base.__module__ for base in inspect.getmro(found.entry)} if inspect.isclass(found.entry) else set()
    return "envs.base" in modules and not modules & NOT_CHEAP


def check_same_environment(config: RunConfig, trained: RunConfig, model_dir: str) -> None:
    """Refuses to judge a model in another environment than it was trained for, unless a flag allows it.

    Variation and options of the same environment are free.

    Raises:
        ConfigError: Names both environments and the flag.
    """
    trained_id, asked_id = trained.env.id, config.env.id
    if "none" in (trained_id, asked_id) or config.evaluation.allow_other_env:
        return
    if _without_module(trained_id) != _without_module(asked_id):
        raise ConfigError(
            f"env.id is {asked_id}, {model_dir} was trained in {trained_id}: its actions would be scaled with the "
            "statistics of another environment; leave --env.id out, or pass --evaluation.allow-other-env to measure "
            "transfer"
        )


def check_recordings(config: RunConfig, dataset: EpisodeDataset, description: EnvDescription) -> None:
    """Refuses recorded episodes whose actions or proprio are not the environment's.

    Raises:
        ConfigError: Another width, actions far outside the bounds, or other proprio where the model reads it.
    """
    check_actions(config.data, dataset, description.action, config.env.id)
    check_proprio(config.model, dataset, description.proprio, config.env.id)


def check_stated_numbers(data: DataConfig, objective: ObjectiveConfig, description: EnvDescription) -> None:
    """Refuses settings that state a number for each dimension of action or proprio, and have another count of them.

    Args:
        data: `action_mean`, `action_std`, `proprio_mean` and `proprio_std`.
        objective: `proprio_dims`.
        description: What the environment takes and gives.

    Raises:
        ConfigError: Names the setting and the dimensions.
    """
    for name, found in (("action", description.action), ("proprio", description.proprio)):
        for kind in ("mean", "std"):
            stated = getattr(data, f"{name}_{kind}")
            if stated and len(stated) != found.dim:
                raise ConfigError(
                    f"data.{name}_{kind} states {len(stated)} numbers, {name} has {found.dim} "
                    f"({', '.join(found.names)})"
                )
    if max(objective.proprio_dims, default=0) >= max(description.proprio.dim, 1):
        raise ConfigError(
            f"objective.proprio_dims names number {max(objective.proprio_dims)}, proprio has numbers 0 to "
            f"{description.proprio.dim - 1} ({', '.join(description.proprio.names)})"
        )


def check_actions(data: DataConfig, dataset: EpisodeDataset, action: ActionSpec, env_id: str) -> None:
    """Refuses recordings whose actions have another width than the environment's, or lie far outside its bounds.

    Args:
        data: `allow_actions_out_of_bounds` turns the second check off.
        dataset: The recordings; actions of at most `NUM_COMPARED_EPISODES` episodes are read.
        action: What the environment takes.
        env_id: Its id, for the error.

    Raises:
        ConfigError: Names each dimension with the recorded range and the bounds.
    """
    recorded = dataset.spec.action
    if recorded.dim != action.dim:
        raise ConfigError(
            f"{dataset.path} holds actions of {recorded.dim} numbers ({', '.join(recorded.names)}), {env_id} takes "
            f"{action.dim} ({', '.join(action.names)}); env.id must be the environment of the recordings, or 'none'"
        )
    if data.allow_actions_out_of_bounds:
        return
    stride = -(-len(dataset) // NUM_COMPARED_EPISODES)
    actions = np.concatenate([dataset.read_column("actions", int(i)) for i in dataset.episode_ids[::stride]])
    names = recorded.names or tuple(f"action[{number}]" for number in range(recorded.dim))
    far = [
        f"{names[d]} ranges from {actions[:, d].min():.3g} to {actions[:, d].max():.3g}, the bounds are "
        f"{action.low[d]:.3g} and {action.high[d]:.3g}"
        for d in range(action.dim)
        if is_far_outside(actions[:, d], action.low[d], action.high[d])
    ]
    if far:
        raise ConfigError(
            f"{dataset.path}: recorded actions lie far outside the bounds of {env_id} ({'; '.join(far)}): they have "
            "another unit, or belong to another robot; correct env.id or the recordings, or pass "
            "--data.allow-actions-out-of-bounds"
        )


def check_model_fits(spec: ModelSpec, description: EnvDescription, env_id: str, model_dir: str) -> None:
    """Refuses a model whose actions or proprio have other widths than the environment's.

    Args:
        spec: The model.
        description: The environment.
        env_id: Its id, for the error.
        model_dir: The model, for the error.

    Raises:
        ConfigError: Names both widths.
    """
    action, names = description.action, ", ".join(spec.action.names)
    if spec.action.dim != action.dim:
        raise ConfigError(
            f"{model_dir} plans actions of {spec.action.dim} numbers ({names}), {env_id} takes {action.dim} "
            f"({', '.join(action.names)}); env.id must be an environment with the actions of the training"
        )
    width, encoding = len(spec.statistics.proprio_mean), spec.model.proprio.encoding
    if encoding != "none" and width != description.proprio.dim:
        raise ConfigError(
            f"{model_dir} reads proprio of {width} numbers (model.proprio.encoding '{encoding}'), {env_id} gives "
            f"{description.proprio.dim} ({', '.join(description.proprio.names)}); env.id must be an environment with "
            "the proprio of the training"
        )


def is_far_outside(values: np.ndarray, low: float, high: float) -> bool:
    """Whether more than a few recorded values lie further outside the bounds than recordings do by accident.

    Args:
        values: `[n]` recorded values of one action dimension.
        low: Lower bound; `-inf` where there is none.
        high: Upper bound; a dimension without both bounds has no width to compare with and always passes.
    """
    if not np.isfinite(high - low):
        return False
    margin = MARGIN * (high - low)
    return bool(((values < low - margin) | (values > high + margin)).mean() > SHARE_OUTSIDE)


def check_proprio(model: ModelConfig, dataset: EpisodeDataset, proprio: VectorSpec, env_id: str) -> None:
    """Refuses episodes whose proprio is not the environment's, where the model reads proprio.

    Raises:
        ConfigError: Names the numbers in the episodes and those of the environment.
    """
    encoding, recorded = model.proprio.encoding, dataset.spec.proprio
    if encoding != "none" and recorded != proprio:
        raise ConfigError(
            f"{dataset.path} holds proprio of {recorded.dim} numbers ({', '.join(recorded.names)}), {env_id} gives "
            f"{proprio.dim} ({', '.join(proprio.names)}); a model that reads it (model.proprio.encoding '{encoding}') "
            "could not be evaluated there: pass --model.proprio.encoding none"
        )


def _without_module(env_id: str) -> str:
    return env_id.rpartition(":")[2]
