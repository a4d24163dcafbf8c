"""Clips for pretraining: videos of datasets and folders, which of them a train step draws, and their frames."""
