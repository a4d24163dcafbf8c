"""Thin entry points, each readable on one screen: `ray job submit -- python ray_jobs/train.py`, or plain `python`."""
