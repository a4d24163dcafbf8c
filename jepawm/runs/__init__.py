"""One run from the command line to the report: preflight, episodes, training, evaluation, report."""
