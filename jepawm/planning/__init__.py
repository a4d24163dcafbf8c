"""Planners: they know a callable that unrolls and a callable that scores, never a model or an environment.

Reference for the shape of it: candidates `[B,N,H,a]` -> chunks `[B,N,H,A]` -> latents `[B,N,H,P,D]` -> cost `[B,N]`.
"""

from jepawm.planning.actions import ActionSearchSpace
from jepawm.planning.cem import CEM
from jepawm.planning.cost import Objective, Plan, Planner, Unroll
from jepawm.planning.objective import GoalDistance
from jepawm.planning.random import RandomPlanner

__all__ = ["CEM", "ActionSearchSpace", "GoalDistance", "Objective", "Plan", "Planner", "RandomPlanner", "Unroll"]
