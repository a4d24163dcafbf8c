"""`jepawm track`: the tracker, after the run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from jepawm.cli.group import run_group


@dataclass(frozen=True)
class Sync:
    """Send the metrics of a run to MLflow that have not been sent yet."""

    run_dir: Positional[str]
    """Directory of the run."""
    uri: str | None = None
    """Address of the tracker; by default the one that knows the run, or the one in its configuration."""

    def run(self) -> int:
        """Prints how many records were sent."""
        from jepawm.config import RunConfig
        from jepawm.config.yaml_io import load_yaml
        from jepawm.runs.episodes import find_dataset
        from jepawm.runs.tracking import mlflow_sink, run_tags
        from jepawm.storage.reading import fetched, overview
        from jepawm.tracking.mlflow_sink import URI_FILE

        run_dir = fetched(self.run_dir, overview)
        config = load_yaml(RunConfig, os.path.join(run_dir, "config.yaml"))
        known = Path(run_dir, URI_FILE)
        uri = self.uri or (known.read_text().strip() if known.is_file() else None)
        if uri is not None:
            config = replace(config, tracking=replace(config.tracking, mlflow_uri=uri))
        recipe = Path(run_dir, "recipe")
        tags = run_tags(config, recipe.read_text().strip() if recipe.is_file() else "unknown", find_dataset(config))
        sink = mlflow_sink(config, run_dir, tags)
        sink.start()
        print(f"{sink.sync()} records sent to {sink.uri}")
        return 0


def main(argv: Sequence[str]) -> int:
    """Runs one command."""
    return run_group(argv, prog="jepawm track", about="The experiment tracker (MLflow).", commands={"sync": Sync})
