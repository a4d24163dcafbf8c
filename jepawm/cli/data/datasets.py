"""`jepawm data check | show | stats | convert`: episode datasets on this disk."""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from jepawm.data.importers.conversion import Reader
    from jepawm.data.inspect.summary import DatasetSummary


@dataclass(frozen=True)
class Check:
    """List every violation of the episode format, with file and row. Exit code 1 if there is any."""

    path: Positional[str]
    """The dataset folder, or its URI."""
    decode: bool = True
    """Also decode every frame."""

    def run(self) -> int:
        """Prints one line a violation; else a summary line, and the episodes that a conversion left out."""
        from jepawm.data import EpisodeDataset, check_dataset
        from jepawm.data.importers.conversion import LEFT_OUT_EPISODES
        from jepawm.storage.reading import fetched

        path = Path(fetched(self.path))
        violations = check_dataset(path, decode=self.decode)
        for violation in violations:
            print(violation)
        if violations:
            print(f"{self.path}: {len(violations)} violation(s)")
            return 1
        dataset = EpisodeDataset(path)
        frames = int(dataset.num_frames_each.sum())
        print(f"{self.path}: ok, {len(dataset)} episodes, {frames} frames in {dataset.num_shards} shard(s)")
        left_out = dataset.spec.source.get(LEFT_OUT_EPISODES, [])
        if left_out:
            print(f"{len(left_out)} episode(s) of the source were left out as bad:")
        for item in left_out:
            print(f"  episode {item['episode']}: {item['reason']}")
        return 0


@dataclass(frozen=True)
class Show:
    """Draw a contact sheet of a few episodes: their frames and actions. With --mp4: a video of them instead."""

    path: Positional[str]
    """The dataset folder, or its URI."""
    output: Path | None = None
    """The picture to write; by default sheet.png, and none with --mp4."""
    mp4: Path | None = None
    """The video to write: every frame of each episode, in real time."""
    episodes: int = 4
    """How many episodes, evenly spaced over the dataset."""
    ids: tuple[int, ...] = ()
    """These episodes instead."""
    frames: int = 8
    """Frames per episode, in a picture or with --window."""
    window: int | None = None
    """Show a window that begins at this frame, as a model sees it, instead of the whole episode."""
    frameskip: int = 1
    """Frames between two that are shown, with --window."""

    def run(self) -> int:
        """Prints the paths of the picture and the video."""
        from jepawm.data import contact_sheet
        from jepawm.data.inspect.film import film
        from jepawm.storage.reading import fetched

        shown: dict[str, Any] = {
            "episodes": self.ids or self.episodes,
            "frames": self.frames,
            "window": self.window,
            "frameskip": self.frameskip,
        }
        path = Path(fetched(self.path))
        output = Path("sheet.png") if self.output is None and self.mp4 is None else self.output
        if output is not None:
            print(contact_sheet(path, output, **shown))
        if self.mp4 is not None:
            print(film(path, self.mp4, **shown))
        return 0


@dataclass(frozen=True)
class Stats:
    """Summarise a dataset: lengths, actions and proprio per dimension, size on disk, share of steps without motion."""

    path: Positional[str]
    """The dataset folder, or its URI."""
    json: bool = False
    """As JSON."""
    plot: Path | None = None
    """Also draw histograms of lengths and actions into this picture."""

    def run(self) -> int:
        """Prints a few lines and a table, or JSON."""
        from jepawm.data.inspect.summary import plot_summary, summarise
        from jepawm.storage.reading import fetched

        summary = summarise(Path(fetched(self.path)))
        if self.json:
            print(json.dumps(summary.to_dict(), indent=1))
        else:
            _print_summary(summary)
        if self.plot is not None:
            picture = plot_summary(summary, self.plot)
            if not self.json:
                print(picture)
        return 0


def _print_summary(summary: "DatasetSummary") -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from jepawm.data.importers.conversion import CONVERSION_KEYS, conversion_lines

    console = Console(highlight=False, soft_wrap=True)
    height, width, channels = summary.pixels
    length = {key: f"{value:g}" for key, value in summary.length.items() if key != "mean"}
    still = "no number ever changes" if summary.still_proprio is None else f"{summary.still_proprio:.1%} of steps"
    facts = {key: value for key, value in summary.source.items() if key not in CONVERSION_KEYS}
    origin = ", ".join(f"{key} {json.dumps(value)}" for key, value in facts.items())
    shape = f"{width}x{height}x{channels}"
    spread = ", ".join(f"{key} {value}" for key, value in length.items())
    lines = {
        "dataset": f"{summary.path} ({summary.name})",
        "episodes": f"{summary.episodes:,}",
        "frames": f"{summary.frames:,} of {shape}, {summary.hours:.3g} h at {summary.control_hz:g} Hz",
        "length": f"{spread}, mean {summary.length['mean']:.1f} frames",
        "on disk": f"{decimal(summary.disk_bytes)} in {summary.shards} shard(s), codec {summary.codec}, "
        f"{summary.disk_bytes / summary.frames:,.0f} bytes a frame",
        "stands still": f"proprio {still}, pixels {summary.still_pixels:.1%} of steps",
        "sim_state": "none" if summary.sim_state_dim is None else f"{summary.sim_state_dim} numbers",
        "source": origin or "not stated",
    }
    for key, value in lines.items():
        console.print(f"{key:<14}{value}", markup=False)
    for line in conversion_lines(summary.source):
        console.print(f"{'':<14}{line}", markup=False)
    units = f" ({summary.action_units})" if summary.action_units else ""
    for what, dimensions in ((f"action{units}", summary.actions), ("proprio", summary.proprio)):
        table = Table(box=None, pad_edge=False)
        table.add_column(what)
        for column in ("mean", "std", "min", "max"):
            table.add_column(column, justify="right")
        for item in dimensions:
            table.add_row(item.name, *(f"{number:.4g}" for number in (item.mean, item.std, item.min, item.max)))
        console.print()
        console.print(table)


@dataclass(frozen=True)
class Convert:
    """Convert a published or recorded dataset into the episode format."""

    source: Positional[Path]
    """The file or folder to read."""
    destination: Positional[Path]
    """The dataset folder to create."""
    format: Annotated[str, tyro.conf.arg(name="from")] = "auto"
    """Its format (`jepawm data convert --help` lists them) or an importer of your own as MODULE:CLASS; `auto`:
    recognised by its files."""
    image_size: int | None = None
    """Side of the square frames, px; by default as recorded, or the shorter side of frames that are not square, which
    are cropped to their middle."""
    codec: Literal["zstd", "png", "jpeg", "raw"] | None = None
    """How frames are stored; by default exact for rendered frames, JPEG for camera frames."""
    camera: str | None = None
    """Which camera, where there are several."""
    control_hz: float | None = None
    """Resample to this rate, where the format allows it; the rate itself, where a format records none (zarr-buffer,
    stable-worldmodel, most of rlds)."""
    split: str | None = None
    """Part of the source, where it has parts."""
    max_episodes: int | None = None
    """Only the first episodes."""
    leave_out_bad: bool = False
    """Leave out episodes that are empty, short, damaged or hold NaN, and list them in meta.json; without it, the first
    bad episode ends the conversion."""
    most_bad: float = 0.1
    """With --leave-out-bad: the largest share of bad episodes that is accepted, 0 to 1. One is always accepted."""
    keep_one_colour: bool = False
    """Keep episodes whose frames all show one colour; without it, such an episode is bad."""
    ray: bool = False
    """Read on every CPU with Ray Data; without it, in this process."""

    def run(self) -> int:
        """Converts with a progress bar, then prints what was taken, left out and assumed, and a summary line."""
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from jepawm.data import EpisodeDataset
        from jepawm.data.importers import ImportOptions, import_episodes, open_source
        from jepawm.data.importers.conversion import conversion_lines
        from jepawm.interrupts import telling_how_to_go_on

        options = ImportOptions(
            image_size=self.image_size,
            codec=self.codec,
            camera=self.camera,
            control_hz=self.control_hz,
            split=self.split,
            max_episodes=self.max_episodes,
            leave_out_bad=self.leave_out_bad,
            most_bad=self.most_bad,
            keep_one_colour=self.keep_one_colour,
        )
        source = open_source(self.source, self.format, options)
        print(f"{self.source}: {source.name} ({source.about}), {source.num_episodes} episodes")
        with (
            telling_how_to_go_on(lambda: "the same command goes on with what was read so far"),
            reader(self.source, self.ray) as read,
        ):
            with Progress(TextColumn("episodes"), MofNCompleteColumn(), TimeRemainingColumn(), transient=True) as bar:
                task = bar.add_task("episodes", total=None)

                def progress(done: int, total: int) -> None:
                    bar.update(task, completed=done, total=total)

                count = import_episodes(source, self.destination, reader=read, progress=progress)
        for line in conversion_lines(EpisodeDataset(self.destination).spec.source):
            print(line)
        print(f"{self.destination}: {count} episodes")
        return 0


def reader(source: Path, on_ray: bool) -> AbstractContextManager["Reader"]:
    """The reader of a source's episodes: this process, or Ray on this machine or a cluster."""
    if on_ray:
        from jepawm.runs.runtime import reading_on_ray

        return reading_on_ray(source)
    from jepawm.data.importers.conversion import read_serially

    return nullcontext(read_serially)
