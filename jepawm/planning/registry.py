"""From configuration to planners and objectives: the one place that knows their names."""

from jepawm.config.objective import ObjectiveConfig
from jepawm.config.planner import PlannerConfig
from jepawm.config.tagged import import_object
from jepawm.latent import Latent
from jepawm.planning.base import Objective, Planner
from jepawm.planning.objective import GoalDistance
from jepawm.planning.search_space import ActionSearchSpace


def build_planner(config: PlannerConfig, space: ActionSearchSpace) -> Planner:
    """The planner that a configuration names.

    Args:
        config: Which planner, and its settings.
        space: Bounds and units of what is searched.
    """
    planner: Planner = import_object(config.implementation, "planner.name")(config, space)
    return planner


def build_objective(config: ObjectiveConfig, goal: Latent) -> Objective:
    """The cost of candidates for given goals.

    Args:
        config: Distance, weighting over the horizon, proprio weight.
        goal: Latents `[B]` of the goals.
    """
    return GoalDistance(config, goal)
