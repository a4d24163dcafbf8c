"""Planners: they know a callable that unrolls and a callable that scores, never a model or an environment.

The shapes on the way: candidates `[B,N,H,d]` -> chunks `[B,N,H,A]` -> latents `[B,N,H,P,D]` -> cost `[B,N]`.
"""

from jepawm.planning.base import Objective, Plan, Planner, StepUnroll, Unroll
from jepawm.planning.mpc import MPC
from jepawm.planning.objective import GoalDistance, LatentDistance, TemporalHead
from jepawm.planning.registry import build_objective, build_planner
from jepawm.planning.search_space import ActionSearchSpace
from jepawm.planning.subgoals import MacroSubgoals, Subgoals, build_subgoals
from jepawm.planning.trace import CandidateLog

__all__ = [
    "MPC",
    "ActionSearchSpace",
    "CandidateLog",
    "GoalDistance",
    "LatentDistance",
    "MacroSubgoals",
    "Objective",
    "Plan",
    "Planner",
    "StepUnroll",
    "Subgoals",
    "TemporalHead",
    "Unroll",
    "build_objective",
    "build_planner",
    "build_subgoals",
]
