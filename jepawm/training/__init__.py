"""Training without Ray: one update, the loop around it, checkpoints."""
