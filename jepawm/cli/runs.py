"""`jepawm runs`: the runs under `$JEPAWM_HOME`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from jepawm.cli.group import run_group


@dataclass(frozen=True)
class ListRuns:
    """List the runs under $JEPAWM_HOME (else ./runs), the newest last."""

    def run(self) -> int:
        """Prints a line for each."""
        from jepawm.config import home
        from jepawm.runs.listing import age_text, list_runs
        from jepawm.storage.holding import where

        runs = list_runs()
        if not runs:
            print(f"no runs in {where(home())}")
        width = max((len(run.name) for run in runs), default=0)
        for run in runs:
            print(f"{run.name:<{width}}  {run.state:<10}  {age_text(run.changed_s):>7} ago  {run.headline}")
        return 0


@dataclass(frozen=True)
class ShowRun:
    """Show what a run is, how far it came, and how to go on with it."""

    name: Positional[str]
    """A run's name, or its directory."""

    def run(self) -> int:
        """Prints what is known."""
        from jepawm.runs.listing import find_run
        from jepawm.runs.usage import earlier_usage
        from jepawm.storage.holding import where
        from jepawm.storage.reading import fetched

        run = find_run(self.name)
        place = where(run.folder)
        print(f"run          {place} ({run.state})")
        print(f"recipe       {run.recipe}; settings in {run.folder}/config.yaml, which is a recipe too")
        if run.env_id:
            print(f"environment  {run.env_id}")
        kept = ", ".join(map(str, run.checkpoints)) or "none"
        print(f"checkpoints  {kept} of {run.num_train_steps} train steps")
        if run.result is not None:
            for name, protocol in run.result.protocols.items():
                print(f"{name:<12} {protocol.planned.rate}; random plans {protocol.random.rate.success_rate:.3f}")
            print(f"report       {fetched(run.result.report)}")
            print(f"again        jepawm evaluate --model {place} --evaluation.seed 7")
        used = earlier_usage(run.folder)
        if used is not None:
            print(f"used         {used.total.gpu:.3g} GPU-hours, {used.total.cpu:.3g} CPU-hours")
        if run.state == "unfinished":
            print(f"go on        jepawm {run.command} --recipe {run.folder}/config.yaml --run-dir {place}")
        return 0


@dataclass(frozen=True)
class RemoveRun:
    """Remove a run's folder; its dataset stays, for other runs may share it."""

    name: Positional[str]
    """A run's name, or its directory."""
    yes: bool = False
    """Do not ask."""

    def run(self) -> int:
        """Asks, and removes."""
        from jepawm.runs.listing import find_run, remove_run
        from jepawm.storage.holding import where

        run = find_run(self.name)
        place = where(run.folder)
        if not self.yes:
            if not sys.stdin.isatty():
                print(f"nothing is removed without an answer; pass --yes to remove {place}", file=sys.stderr)
                return 2
            if input(f"remove {place} ({run.state}, {run.headline})? [y/N] ").strip().lower() != "y":
                return 1
        remove_run(run)
        print(f"removed {place}")
        return 0


def main(argv: Sequence[str]) -> int:
    """Runs one command; without a word, the list."""
    return run_group(
        argv,
        prog="jepawm runs",
        about="The runs under $JEPAWM_HOME.",
        commands={"list": ListRuns, "show": ShowRun, "rm": RemoveRun},
        default="list",
    )
