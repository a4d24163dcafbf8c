"""Planner hosts of a run: the model on its way to them, and the pool that plays with them."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jepawm.checkpoints.head_folder import load_head
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import ObjectiveConfig, RunConfig
from jepawm.config.subgoals import MacroSubgoalsConfig, SubgoalConfig
from jepawm.console import Console
from jepawm.encoders import FrozenEncoder
from jepawm.errors import ConfigError
from jepawm.evaluation.baselines import learned_baselines
from jepawm.evaluation.planner_host import Players
from jepawm.evaluation.planner_pool import ModelParcel, PlannerPool
from jepawm.runs.hosts import pool_in_words
from jepawm.runs.runtime import Runtime
from jepawm.world_model import WorldModel


def pack_model(
    model: WorldModel, spec: ModelSpec, objective: ObjectiveConfig, subgoals: SubgoalConfig, *, version: str
) -> ModelParcel:
    """A model with all that planning reads of it, so that the nodes of planner hosts need none of its files.

    Args:
        model: The world model; it stays where it is.
        spec: Its specification.
        objective: Of the evaluation: a learned distance is a head.
        subgoals: Of the evaluation: macro-actions are a head's.
        version: SHA-256 of its weights.

    Raises:
        ConfigError: A learned distance or subgoals, and a model that was read from no folder.
        CheckpointError: A head or a pretrained encoder that is missing, damaged or another model's.
    """
    if isinstance(model.encoder.storable, FrozenEncoder):
        # A pretrained encoder reads its file when it is first used, and that file lies on this machine.
        model.encoder.storable.backbone()
    names = set(learned_baselines(spec))
    if objective.distance == "temporal":
        names.add(objective.head)
    if isinstance(subgoals, MacroSubgoalsConfig):
        names.add(subgoals.head)
    if names and spec.folder is None:
        raise ConfigError(f"heads lie in a model's folder, and this model was read from none: {', '.join(names)}")
    heads = {name: load_head(str(spec.folder), name)[0] for name in sorted(names)}
    return ModelParcel(version, copy.deepcopy(model).cpu().eval(), spec, heads)


@contextmanager
def planner_hosts(
    config: RunConfig, runtime: Runtime, parcel: Callable[[], ModelParcel], console: Console
) -> Iterator[Players | None]:
    """The planner hosts that a configuration asks for; None where the driver plans.

    Args:
        config: Environment, device and scaling.
        runtime: Where the hosts live, and what counts them.
        parcel: Packs the model; called where there are planner hosts.
        console: Shows what they do, and told estimates of memory.
    """
    scaling = config.scaling
    if not scaling.num_planner_hosts:
        with runtime.usage.holding(runtime.share("evaluating driver", config)):
            yield None
        return
    backend = runtime.planner_backend(config.env, scaling, config.device, parcel())
    with (
        PlannerPool(
            backend,
            max_restarts=scaling.max_actor_restarts,
            episodes_per_group=scaling.largest_group,
            say=console.say,
        ) as pool,
        runtime.usage.holding(runtime.share("planner hosts", config)),
        # They start environment hosts of their own, as many in all as the driver has.
        runtime.usage.holding(runtime.share("environment hosts", config)),
        console.role("planners", pool_in_words("planners", pool, runtime)),
    ):
        yield pool
