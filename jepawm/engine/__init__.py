"""The engine: a world model's unroll as a planner asks for it, many candidates over and over on the same weights."""

from jepawm.engine.memory import MemoryEstimate
from jepawm.engine.planning_model import planning_model
from jepawm.engine.unroll import PlanningUnroll, UnrollSettings

__all__ = ["MemoryEstimate", "PlanningUnroll", "UnrollSettings", "planning_model"]
