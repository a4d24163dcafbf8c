"""`jepawm data ...`: each command is a frozen dataclass with `run() -> exit code`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import subcommand

from jepawm.cli.data.caches import Cache
from jepawm.cli.data.datasets import Check, Convert, Show, Stats
from jepawm.cli.data.sources import Get, List, Verify
from jepawm.errors import JepawmError

DataCommand = (
    Annotated[List, subcommand("list")]
    | Annotated[Get, subcommand("get")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Stats, subcommand("stats")]
    | Annotated[Cache, subcommand("cache")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. An error that a user can mend is printed as one line; returns its `exit_code`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["convert"] and {"-h", "--help"} & set(words):
        _print_formats()
    command: List | Get | Verify | Convert | Check | Show | Stats | Cache = tyro.cli(
        DataCommand,
        prog="jepawm data",
        description="Download public datasets, convert data into episodes, and check, show and summarise datasets.",
        args=words,
    )
    try:
        return command.run()
    except JepawmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _print_formats() -> None:
    from jepawm.data.importers import FORMATS, source_class

    print("formats (--from):")
    for name in FORMATS:
        print(f"  {name:<20} {source_class(name).about}")
    print()
