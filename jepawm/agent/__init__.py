"""The agent: a world model, an objective and a planner behind one batch-first object, and how one is loaded."""

from jepawm.agent.agent import ActionPlan, Agent, Starts
from jepawm.agent.inputs import Goal, Observation
from jepawm.agent.loading import load_agent

__all__ = ["ActionPlan", "Agent", "Goal", "Observation", "Starts", "load_agent"]
