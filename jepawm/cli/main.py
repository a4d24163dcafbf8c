"""The `jepawm` command, and the way every command ends: one clear line for a user's error, a traceback for ours."""

import errno
import importlib
import os
import sys
from collections.abc import Callable

from jepawm.errors import JepawmError, did_you_mean
from jepawm.interrupts import interrupted, raised_signals

# Name: the module whose `main(argv)` runs it, and what it does. A module is imported when its command is asked for.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("jepawm.cli.demo", "train and plan in a small world; about two minutes on two cores"),
    "train": ("jepawm.cli.train", "collect or read episodes, train a world model, plan with it, report"),
    "pretrain": ("jepawm.cli.pretrain", "pretrain a video encoder on clips, for world models to train on"),
    "collect": ("jepawm.cli.collect", "episodes alone: play a policy in an environment"),
    "encode": ("jepawm.cli.encode", "a frozen encoder's features of a dataset, once, for training on them"),
    "train-head": ("jepawm.cli.train_head", "train what reads a model's latents: frames, states, distances, actions"),
    "evaluate": ("jepawm.cli.evaluate", "judge a trained model: other episodes, protocols, planners"),
    "counterfactual": ("jepawm.cli.counterfactual", "what a model imagines under actions made by hand"),
    "tune": ("jepawm.cli.tune", "trials with other settings: compare them, stop the worse ones, repeat the best"),
    "study": ("jepawm.cli.study", "encoders x environments x data x seeds: train and compare them on one page"),
    "improve": ("jepawm.cli.improve", "let a model collect episodes by planning, train on them, and so on"),
    "compare": ("jepawm.cli.compare", "two or more evaluations: is the difference real, or noise?"),
    "episodes": ("jepawm.cli.episodes", "make and show files of starts and goals that evaluations play"),
    "runs": ("jepawm.cli.runs", "list, show and remove runs"),
    "recipes": ("jepawm.cli.recipes", "list and show recipes"),
    "data": ("jepawm.cli.data", "get, convert, check, show and count datasets"),
    "ckpt": ("jepawm.cli.ckpt", "say what a checkpoint is; convert a published one"),
    "env": ("jepawm.cli.env", "check an environment of your own"),
    "track": ("jepawm.cli.track", "send a run's metrics to MLflow"),
    "doctor": ("jepawm.cli.doctor", "say what is installed, and whether it draws"),
}


def guarded(main: Callable[[], int | None]) -> int:
    """Runs a command; a `JepawmError` or a signal becomes one message on standard error and its exit code.

    Args:
        main: The command; its return value is the exit code, None for 0.
    """
    # Set before torch is loaded. A thread that spins at every barrier as long as OpenMP's default does takes the core
    # from the thread it waits for, as soon as anything else runs on the machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with raised_signals():
            return main() or 0
    except JepawmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror}{where}; free some space, then give the same command again", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(interrupted(stop), file=sys.stderr)
        return interrupted(stop).exit_code


def main(argv: list[str] | None = None) -> int:
    """Entry point of `jepawm`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if words[0] in ("--version", "-V"):
        print(_versions())
        return 0
    if words[0] not in COMMANDS:
        message = f"error: unknown command '{words[0]}'{did_you_mean(words[0], COMMANDS)}; jepawm --help lists them"
        print(message, file=sys.stderr)
        return 2
    module = COMMANDS[words[0]][0]
    return guarded(lambda: importlib.import_module(module).main(words[1:]))


def _usage() -> str:
    commands = "\n".join(f"  {name:<14} {about}" for name, (_, about) in COMMANDS.items())
    return (
        "usage: jepawm COMMAND ...\n\nJoint-embedding world models for physical planning, on Ray.\n\n"
        f"{commands}\n\njepawm COMMAND --help says more; jepawm --version names the versions."
    )


def _versions() -> str:
    import platform
    from importlib import metadata

    from jepawm import __version__

    parts = [f"jepawm {__version__}", f"Python {platform.python_version()}"]
    for name in ("torch", "ray", "mlflow"):
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
