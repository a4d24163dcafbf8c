"""Looking at a dataset: check it, draw it, summarise it."""
