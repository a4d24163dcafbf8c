"""A dataset with all episodes of another one and new ones; what was held out stays held out."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from jepawm.data import EpisodeDataset, EpisodeWriter
from jepawm.data.encoding import EncodedEpisode
from jepawm.data.loading.split import HELD_OUT_KEY, Split
from jepawm.data.meta import META_FILE
from jepawm.data.writer import discard_dataset
from jepawm.runs.episodes import find_complete
from jepawm.types import Episode


def grown_dataset(
    path: str, older: EpisodeDataset, split: Split, new_episodes: Iterable[Episode | EncodedEpisode]
) -> EpisodeDataset:
    """Writes a dataset that begins with the shards of an older one, which are linked and not copied where that works.

    Args:
        path: Of the new dataset. Where a complete one is there, nothing happens; an unfinished one is written anew.
        older: The episodes so far.
        split: Of the older dataset; its held-out episodes stay held out, and no new one joins them.
        new_episodes: With ids that the older dataset does not have.

    Returns:
        The new dataset.
    """
    there = find_complete(path)
    if there is not None:
        return there
    discard_dataset(path)
    folder = Path(path)
    for number in range(older.num_shards):
        shard = older.shard_path(number)
        target = folder / shard.relative_to(older.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(shard, target)
    shutil.copyfile(older.path / META_FILE, folder / META_FILE)
    with EpisodeWriter(path, older.spec, chunk_frames=older.chunk_frames, resume=True) as writer:
        writer.set_source(older.spec.source | {HELD_OUT_KEY: split.held_out.tolist()})
        for episode in new_episodes:
            writer.write(episode)
    return EpisodeDataset(path)


def _link(source: Path, target: Path) -> None:
    """A second name for a file that no writer changes; a copy on another disk or where links are not allowed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
