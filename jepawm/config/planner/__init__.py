"""The section `planner`: one dataclass for each kind of planner, and presets named after papers."""

from jepawm.config.planner.base import PlannerConfig, Precision, RandomPlansConfig
from jepawm.config.planner.function import FunctionPlannerConfig
from jepawm.config.planner.gradient import CEMGradientConfig, GradientConfig, GraspConfig
from jepawm.config.planner.nevergrad import NevergradConfig
from jepawm.config.planner.sampling import (
    CEMConfig,
    ICEMConfig,
    MPPIConfig,
    PredictiveSamplingConfig,
    RandomShootingConfig,
)

__all__ = [
    "CEMConfig",
    "CEMGradientConfig",
    "FunctionPlannerConfig",
    "GradientConfig",
    "GraspConfig",
    "ICEMConfig",
    "MPPIConfig",
    "NevergradConfig",
    "PlannerConfig",
    "Precision",
    "PredictiveSamplingConfig",
    "RandomPlansConfig",
    "RandomShootingConfig",
]
