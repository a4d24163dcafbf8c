"""`jepawm track`: the tracker, after the run."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from tyro.conf import Positional

from jepawm.cli.group import run_group


@dataclass(frozen=True)
class Sync:
    """Send to MLflow what it lacks of a run, an improvement with its rounds, or a sweep or study with its trials."""

    folder: Positional[str]
    """Directory or URI of the run, improvement, sweep or study."""
    uri: str | None = None
    """Address of the tracker; by default that of its configuration, else $MLFLOW_TRACKING_URI, else the last one."""

    def run(self) -> int:
        """Prints what was sent."""
        from jepawm.runs.sync import sync_folder

        with _opened(self.folder) as folder:
            sync_folder(folder, self.uri, print)
        return 0


@dataclass(frozen=True)
class Register:
    """Give the model of a run a name and a version in MLflow's registry."""

    run_dir: Positional[str]
    """Directory or URI of the run."""
    name: str
    """Name in the registry."""
    uri: str | None = None
    """Address of the tracker; by default that of its configuration, else $MLFLOW_TRACKING_URI, else the last one."""

    def run(self) -> int:
        """Sends the run as far as it is new, registers its model, and prints how it is loaded."""
        from jepawm.runs.sync import sync_run
        from jepawm.tracking.registry import register_model

        with _opened(self.run_dir) as run_dir:
            sink = sync_run(run_dir, self.uri, print)
            model = register_model(sink.tracker, sink.run_id, self.name, os.path.join(run_dir, "model"))
        print(f"registered as {model.name}, version {model.version}")
        print(f"in Python    jepawm.load('{model.source}')")
        print(f"evaluate     jepawm evaluate --model {model.source}")
        return 0


@contextmanager
def _opened(path: str) -> Iterator[str]:
    """A run or a folder of runs on this disk. One at a URI is held, so that `mlflow.json` gets into its store."""
    from jepawm.storage.holding import held
    from jepawm.storage.reading import fetched_results, results, stored_root

    folder = fetched_results(path)
    with held(stored_root(folder), print, wanted=results) if os.path.isdir(folder) else nullcontext():
        yield folder


def main(argv: Sequence[str]) -> int:
    """Runs one command."""
    commands = {"sync": Sync, "register": Register}
    return run_group(argv, prog="jepawm track", about="The experiment tracker (MLflow).", commands=commands)
