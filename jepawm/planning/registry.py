"""From configuration to planners and objectives: the one place that knows their names."""

from jepawm.config.objective import ObjectiveConfig
from jepawm.config.planner import PlannerConfig
from jepawm.config.tagged import import_object
from jepawm.errors import ConfigError
from jepawm.latent import Latent
from jepawm.planning.base import Objective, Planner
from jepawm.planning.objective import GoalDistance, LatentDistance, TemporalDistance, TemporalHead
from jepawm.planning.search_space import ActionSearchSpace


def build_planner(config: PlannerConfig, space: ActionSearchSpace) -> Planner:
    """The planner that a configuration names.

    Args:
        config: Which planner, and its settings.
        space: Bounds and units of what is searched.
    """
    planner: Planner = import_object(config.implementation, "planner.name")(config, space)
    return planner


def build_objective(config: ObjectiveConfig, goal: Latent, temporal_head: TemporalHead | None = None) -> Objective:
    """The cost of candidates for given goals.

    Args:
        config: Distance, weighting over the horizon, proprio weight.
        goal: Latents `[B]` of the goals.
        temporal_head: The head that `config.head` names, on the goals' device, for the distance `temporal`.

    Raises:
        ConfigError: A head that is missing, or a function that cannot be imported or called.
    """
    distance: LatentDistance | None = None
    if config.distance == "temporal":
        if temporal_head is None:
            raise ConfigError("objective.distance 'temporal' needs the model's distance head, and none is given")
        distance = TemporalDistance(temporal_head)
    elif ":" in config.distance:
        distance = import_object(config.distance, "objective.distance")
        if not callable(distance):
            raise ConfigError(f"objective.distance: {config.distance} is no function")
    return GoalDistance(config, goal, distance)
