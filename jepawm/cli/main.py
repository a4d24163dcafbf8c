"""The `jepawm` command, and the way every command ends: one clear line for a user's error, a traceback for ours."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import tyro

from jepawm.errors import JepawmError

COMMANDS = ("ckpt", "data", "doctor", "env", "recipes", "track")


def guarded(main: Callable[[], int | None]) -> int:
    """Runs a command; a `JepawmError` becomes one message on standard error and its exit code.

    Args:
        main: The command; its return value is the exit code, None for 0.
    """
    # Set before torch is loaded. A thread that spins at every barrier as long as OpenMP's default does takes the core
    # from whoever it waits for, as soon as anything else runs on the machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return main() or 0
    except JepawmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


@dataclass(frozen=True)
class TrackSync:
    """Sends the metrics of a run to MLflow that have not been sent yet."""

    run_dir: tyro.conf.Positional[str]
    """Directory of the run."""
    uri: str | None = None
    """Tracking URI; by default the one in the run's configuration."""


def _track_sync(command: TrackSync) -> int:
    from jepawm.config import RunConfig, home, to_dict
    from jepawm.config.yaml_io import flatten, load_yaml
    from jepawm.tracking import MLflowSink

    config = load_yaml(RunConfig, os.path.join(command.run_dir, "config.yaml"))
    uri = command.uri or config.tracking.mlflow_uri or f"sqlite:///{os.path.join(home(), 'mlflow.db')}"
    sink = MLflowSink(command.run_dir, uri=uri, experiment=config.tracking.experiment, params=flatten(to_dict(config)))
    sink.start()
    print(f"{sink.sync()} records sent to {uri}")
    return 0


def _recipes() -> int:
    from jepawm.config.yaml_io import read_recipe_text, recipe_names

    for name in recipe_names():
        about = [line.removeprefix("# ") for line in read_recipe_text(name).splitlines() if line.startswith("#")]
        print(f"{name:<14} {about[0] if about else ''}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of `jepawm`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["data"]:
        from jepawm.cli.data import main as data_main

        return guarded(lambda: data_main(argv[1:]))
    if argv[:1] == ["ckpt"]:
        from jepawm.cli.ckpt import main as ckpt_main

        return guarded(lambda: ckpt_main(argv[1:]))
    if argv[:1] == ["env"]:
        from jepawm.cli.env import main as env_main

        return guarded(lambda: env_main(argv[1:]))
    if argv[:1] == ["doctor"]:
        from jepawm.cli.doctor import main as doctor_main

        return guarded(lambda: doctor_main(argv[1:]))
    if argv[:2] == ["track", "sync"]:
        return guarded(lambda: _track_sync(tyro.cli(TrackSync, args=argv[2:], prog="jepawm track sync")))
    if argv == ["recipes"]:
        return guarded(_recipes)
    text = (
        "usage: jepawm COMMAND\n\n"
        "  data list                          public datasets: size, licence, whether they are here\n"
        "  data get NAME                      download, resume, check and unpack one of them\n"
        "  data verify NAME|PATH              judge downloads by their checksums\n"
        "  data convert SOURCE DEST           a published or recorded dataset as episodes\n"
        "  data check PATH                    name every violation of the episode format\n"
        "  data show PATH                     draw a contact sheet\n"
        "  data stats PATH                    lengths, actions and proprio in numbers\n"
        "  ckpt show PATH                     say what a checkpoint is; executes nothing\n"
        "  ckpt convert SOURCE DEST           a published checkpoint as a model folder\n"
        "  env check ENV                      is an environment fit for collecting and planning\n"
        "  doctor                             what is installed, and does it draw\n"
        "  recipes                            list the recipes for ray_jobs/train.py --recipe\n"
        "  track sync RUN_DIR                 send a run's metrics to MLflow\n"
    )
    if argv and argv[0] not in ("-h", "--help"):
        from jepawm.errors import did_you_mean

        print(
            f"error: unknown command '{argv[0]}'{did_you_mean(argv[0], COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
