"""`jepawm data check | show | convert`: each command is a frozen dataclass with `run() -> exit code`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from jepawm.errors import JepawmError

if TYPE_CHECKING:
    from jepawm.data.importers.base import Reader


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
class Convert:
    """Convert a published or recorded dataset into the episode format."""

    source: Positional[Path]
    """The file or folder to read."""
    destination: Positional[Path]
    """The dataset folder to create."""
    format: Annotated[str, tyro.conf.arg(name="from")] = "auto"
    """Its format (`jepawm data convert --help` lists them); `auto`: recognised by its files."""
    image_size: int | None = None
    """Side of the square frames, px; by default as recorded, or the shorter side of frames that are not square, which
    are cropped to their middle."""
    codec: Literal["zstd", "png", "jpeg", "raw"] | None = None
    """How frames are stored; by default exact for rendered frames, JPEG for camera frames."""
    camera: str | None = None
    """Which camera, where there are several."""
    control_hz: float | None = None
    """Resample to this rate, where the format allows it."""
    split: str | None = None
    """Part of the source, where it has parts."""
    max_episodes: int | None = None
    """Only the first episodes."""
    ray: bool = False
    """Read on every CPU with Ray Data; without it, in this process."""

    def run(self) -> int:
        """Converts with a progress bar, then prints a summary line."""
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from jepawm.data.importers import ImportOptions, import_episodes, open_source

        options = ImportOptions(self.image_size, self.codec, self.camera, self.control_hz, self.split)
        source = open_source(self.source, self.format, options)
        print(f"{self.source}: {source.name} ({source.about}), {source.num_episodes} episodes")
        with reader(self.ray) as read:
            with Progress(TextColumn("episodes"), MofNCompleteColumn(), TimeRemainingColumn(), transient=True) as bar:
                task = bar.add_task("episodes", total=None)

                def progress(done: int, total: int) -> None:
                    bar.update(task, completed=done, total=total)

                count = import_episodes(
                    source, self.destination, max_episodes=self.max_episodes, reader=read, progress=progress
                )
        print(f"{self.destination}: {count} episodes")
        return 0


@contextmanager
def reader(on_ray: bool) -> Iterator["Reader"]:
    """What reads episodes: this process, or a Ray of this machine or cluster."""
    if not on_ray:
        from jepawm.data.importers.base import read_serially

        yield read_serially
        return
    from jepawm.runtime import ray_runtime

    runtime = ray_runtime()
    try:
        yield runtime.reader()
    finally:
        runtime.close()


DataCommand = (
    Annotated[Check, subcommand("check")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Convert, subcommand("convert")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; an error that a user can mend is one line, and its `exit_code` is returned."""
    command: Check | Show | Convert = tyro.cli(
        DataCommand,
        prog="jepawm data",
        description="Check, look at, and convert episode datasets.",
        args=None if argv is None else list(argv),
    )
    try:
        return command.run()
    except JepawmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
