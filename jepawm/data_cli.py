"""`jepawm data check | show | import`: each command is a frozen dataclass with `run() -> exit code`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from jepawm.errors import JepawmError


@dataclass(frozen=True)
class Check:
    """List every violation of the episode format, with file and row. Exit code 1 if there is any."""

    path: Positional[Path]
    """The dataset folder."""
    decode: bool = True
    """Also decode every frame."""

    def run(self) -> int:
        """Prints one line a violation, or one summary line."""
        from jepawm.data import EpisodeDataset, check_dataset

        violations = check_dataset(self.path, decode=self.decode)
        for violation in violations:
            print(violation)
        if violations:
            print(f"{self.path}: {len(violations)} violation(s)")
            return 1
        dataset = EpisodeDataset(self.path)
        frames = int(dataset.num_frames_each.sum())
        print(f"{self.path}: ok, {len(dataset)} episodes, {frames} frames in {dataset.num_shards} shard(s)")
        return 0


@dataclass(frozen=True)
class Show:
    """Draw a contact sheet: a few episodes, their frames and actions."""

    path: Positional[Path]
    """The dataset folder."""
    output: Path = Path("sheet.png")
    """The picture to write."""
    episodes: int = 4
    """How many episodes, evenly spaced over the dataset."""
    frames: int = 8
    """Frames per episode."""

    def run(self) -> int:
        """Prints the path of the picture."""
        from jepawm.data import contact_sheet

        print(contact_sheet(self.path, self.output, episodes=self.episodes, frames=self.frames))
        return 0


@dataclass(frozen=True)
class Import:
    """Import a published dataset."""

    kind: Positional[Literal["pusht-zarr"]]
    """What the source is: pusht-zarr = Push-T human demonstrations (Diffusion Policy)."""
    source: Positional[Path]
    """The file or folder to read."""
    destination: Positional[Path]
    """The dataset folder to create."""
    image_size: int | None = None
    """Resize frames to this many px a side; as recorded by default."""
    max_episodes: int | None = None
    """Import only the first episodes."""

    def run(self) -> int:
        """Imports with a progress bar, then prints a summary line."""
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from jepawm.data.importers.pusht_zarr import import_pusht_zarr

        with Progress(TextColumn("episodes"), MofNCompleteColumn(), TimeRemainingColumn(), transient=True) as bar:
            task = bar.add_task("episodes", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            count = import_pusht_zarr(
                self.source,
                self.destination,
                image_size=self.image_size,
                max_episodes=self.max_episodes,
                progress=progress,
            )
        print(f"{self.destination}: imported {count} episodes")
        return 0


DataCommand = (
    Annotated[Check, subcommand("check")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Import, subcommand("import")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; an error that a user can mend is one line, and its `exit_code` is returned."""
    command: Check | Show | Import = tyro.cli(
        DataCommand,
        prog="jepawm data",
        description="Check, look at, and import episode datasets.",
        args=None if argv is None else list(argv),
    )
    try:
        return command.run()
    except JepawmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
