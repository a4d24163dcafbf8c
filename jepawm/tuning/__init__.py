"""Sweeps: search spaces, which points are tried, what trials found, and what they need. None of it knows Ray."""

from jepawm.tuning.space import Above, Choice, IntRange, LogUniform, Parameter, Point, Space, Uniform

__all__ = ["Above", "Choice", "IntRange", "LogUniform", "Parameter", "Point", "Space", "Uniform"]
