"""Models on disk: our model folder, the published files, and a reader for pickled modules that executes nothing."""
