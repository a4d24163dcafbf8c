"""Commands that have commands: each is a dataclass with `run() -> exit code`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tyro


class Runnable(Protocol):
    """One command."""

    def run(self) -> int:
        """Does it and returns the exit code."""
        ...


def run_group(
    argv: Sequence[str], *, prog: str, about: str, commands: Mapping[str, type[Any]], default: str | None = None
) -> int:
    """Reads which command is asked for, and runs it.

    Args:
        argv: Words after `prog`.
        prog: How the group is called.
        about: First line of its help.
        commands: Name and dataclass of each command.
        default: The command that is meant without a word; None: there is none, and the help is printed.

    Returns:
        The command's exit code; 2 where none was named.
    """
    words = list(argv)
    if not words:
        words = [default] if default is not None else ["--help"]
    code = 0 if argv or default is not None else 2
    try:
        command: Runnable = tyro.extras.subcommand_cli_from_dict(
            dict(commands), prog=prog, description=about, args=words
        )
    except SystemExit as stop:
        if code and not stop.code:
            return code
        raise
    return command.run()
