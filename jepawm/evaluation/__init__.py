"""Judging a world model: which episodes and goals, what happened, with which interval, told in which report."""
