"""From episodes on disk to batches of windows."""
