"""Judging a world model: which episodes and goals, what happened, with which interval, and the report."""
