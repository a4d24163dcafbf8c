"""`jepawm track`: the tracker, after the run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from jepawm.cli.group import run_group


@dataclass(frozen=True)
class Sync:
    """Send to MLflow what it lacks of a run, of an improvement with its rounds, or of a sweep with its trials."""

    folder: Positional[str]
    """Directory or URI of the run, improvement or sweep."""
    uri: str | None = None
    """Address of the tracker; by default the one that knows the run, or the one in its configuration."""

    def run(self) -> int:
        """Prints what was sent."""
        from jepawm.runs.sync import sync_folder
        from jepawm.storage.reading import fetched_results

        sync_folder(fetched_results(self.folder), self.uri, print)
        return 0


@dataclass(frozen=True)
class Register:
    """Give the model of a run a name and a version in MLflow's registry."""

    run_dir: Positional[str]
    """Directory or URI of the run."""
    name: str
    """Name in the registry."""
    uri: str | None = None
    """Address of the tracker; by default the one that knows the run, or the one in its configuration."""

    def run(self) -> int:
        """Sends the run as far as it is new, registers its model, and prints how it is loaded."""
        from jepawm.runs.sync import sync_run
        from jepawm.storage.reading import fetched_results
        from jepawm.tracking.registry import register_model

        run_dir = fetched_results(self.run_dir)
        sink = sync_run(run_dir, self.uri, print)
        model = register_model(sink.tracker, sink.run_id, self.name, os.path.join(run_dir, "model"))
        print(f"registered as {model.name}, version {model.version}")
        print(f"in Python    jepawm.load('{model.source}')")
        print(f"evaluate     jepawm evaluate --model {model.source}")
        return 0


def main(argv: Sequence[str]) -> int:
    """Runs one command."""
    commands = {"sync": Sync, "register": Register}
    return run_group(argv, prog="jepawm track", about="The experiment tracker (MLflow).", commands=commands)
