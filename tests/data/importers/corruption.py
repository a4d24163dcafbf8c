"""Random small corruptions of a tiny source of every format, each converted in a process of its own.

    PYTHONPATH=. python tests/data/importers/corruption.py --count 2000

A trial is right if the conversion ends with an error of ours and leaves nothing behind, or if the dataset holds what
the sound source holds. A corruption that no reader can see (bytes flipped in numbers or pictures without a checksum)
may change values, but no shapes.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from every_format import SOURCES

from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.errors import JepawmError

LIMIT_S = 60
COLUMNS = ("pixels", "actions", "proprio", "sim_state")
# Without an index of episodes, a file or group that is gone cannot be missed.
NO_INDEX = ("franka-hdf5", "droid-raw", "robocasa-hdf5", "video-folder")
# Every byte of an episode is under a checksum.
CHECKSUMS = ("rlds",)
Random = np.random.Generator


def flip(path: Path, rng: Random) -> str:
    """Changes up to eight bytes."""
    data = bytearray(path.read_bytes())
    for at in rng.integers(0, max(len(data), 1), size=int(rng.integers(1, 9))) if data else ():
        data[at] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    return "flip"


def erase(path: Path, rng: Random) -> str:
    """Fills a part with zeros."""
    data = bytearray(path.read_bytes())
    start = int(rng.integers(0, max(len(data), 1)))
    stop = min(len(data), start + int(rng.integers(1, 257)))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    return "erase"


def cut(path: Path, rng: Random) -> str:
    """Cuts the end off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(0, max(len(data), 1)))])
    return "cut"


def delete(path: Path, rng: Random) -> str:
    """Removes the file."""
    path.unlink()
    return "delete"


def restructure(path: Path, rng: Random) -> str:
    """Drops an entry of a structured file, or gives one another type; cuts any other file."""
    edit = _EDITS.get(path.suffix) or (_edit_json if path.name in (".zarray", "zarr.json") else None)
    if edit is None:
        return cut(path, rng)
    edit(path, rng)
    return "restructure"


def _edit_json(path: Path, rng: Random) -> None:
    try:
        tree = json.loads(path.read_text())
    except ValueError:
        return
    node, key = tree, None
    while isinstance(node, (dict, list)) and node:
        parent, key = node, list(node)[int(rng.integers(len(node)))] if isinstance(node, dict) else 0
        node = node[key]
        if rng.random() < 0.3:
            break
    if key is None:
        return
    if rng.random() < 0.5:
        del parent[key]
    else:
        parent[key] = [None, {"x": 1}, [], "text"][int(rng.integers(4))]
    path.write_text(json.dumps(tree))


def _edit_parquet(path: Path, rng: Random) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    at = int(rng.integers(table.num_columns))
    if rng.random() < 0.5:
        table = table.remove_column(at)
    else:
        texts = pa.array([str(value)[:9] for value in table.column(at).to_pylist()])
        table = table.set_column(at, table.column_names[at], texts)
    pq.write_table(table, path)


def _edit_hdf5(path: Path, rng: Random) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = names[int(rng.integers(len(names)))]
        values = file[name][()]
        del file[name]
        if rng.random() < 0.5:
            file[name] = [values[..., None], np.asarray("text", dtype="S4"), values[:1]][int(rng.integers(3))]


def _edit_torch(path: Path, rng: Random) -> None:
    import torch

    values = torch.load(path)
    changed = [{"x": values}, "text", values[None], values[:1]][int(rng.integers(4))]
    torch.save(changed, path)


_EDITS: dict[str, Callable[[Path, Random], None]] = {
    ".json": _edit_json,
    ".parquet": _edit_parquet,
    ".h5": _edit_hdf5,
    ".hdf5": _edit_hdf5,
    ".pth": _edit_torch,
}
KINDS = (flip, erase, cut, delete, restructure)


def convert(form: str, path: Path, destination: Path) -> EpisodeDataset:
    """Converts a source, and checks the dataset."""
    options = ImportOptions(**SOURCES[form].options)
    import_episodes(open_source(path, form, options), destination)
    violations = check_dataset(destination)
    if violations:
        raise AssertionError(f"the dataset breaks the contract: {violations[0]}")
    return EpisodeDataset(destination)


def difference(form: str, kind: str, sound: EpisodeDataset, other: EpisodeDataset) -> str:
    """How a dataset differs from that of the sound source without saying so, or an empty text."""
    records = ("took", "left_out", "assumed", "absent_episodes", "unlisted_episodes", "notes")
    if any(sound.spec.source.get(key) != other.spec.source.get(key) for key in records):
        return ""
    fewer = len(other) < len(sound)
    if len(other) != len(sound) and not (fewer and form in NO_INDEX):
        return f"{len(other)} episodes instead of {len(sound)}"
    if fewer:
        return ""
    for number in sound.episode_ids.tolist():
        one, two = sound.read_episode(number), other.read_episode(number)
        for column in COLUMNS:
            left, right = getattr(one, column), getattr(two, column)
            if np.shape(left) != np.shape(right):
                return f"episode {number}: {column} {np.shape(right)} instead of {np.shape(left)}"
            unseen = kind in ("flip", "erase") and form not in CHECKSUMS
            if not unseen and not np.array_equal(left, right):
                return f"episode {number}: other {column}"
    return ""


def _work(form: str, kind: str, path: Path, sound: Path, destination: Path, answers: Any) -> None:
    try:
        dataset = convert(form, path, destination)
        answers.put(("same", difference(form, kind, EpisodeDataset(sound), dataset)))
    except JepawmError as error:
        left = sorted(entry.name for entry in destination.parent.iterdir() if entry.name.lstrip(".").startswith("d"))
        answers.put(("refused", f"left {left} behind" if left or not str(error).strip() else ""))


def trial(form: str, seed: int, sound: Path, folder: Path) -> tuple[str, str, str]:
    """One corruption of one source.

    Args:
        form: A key of `SOURCES`.
        seed: Decides the corruption.
        sound: A folder with the sound source in `source` and its dataset in `dataset`.
        folder: An empty folder to work in.

    Returns:
        What was done, the outcome (`same`, `refused`, `traceback`, `crash`, `hang`), and what is wrong, or "". The
        process itself prints a traceback.
    """
    rng = np.random.default_rng([seed, list(SOURCES).index(form)])
    path = folder / "in" / SOURCES[form].path
    shutil.copytree(sound / "source", folder / "in")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    file = files[int(rng.integers(len(files)))]
    kind = KINDS[int(rng.integers(len(KINDS)))](file, rng)
    done = f"{form}, seed {seed}: {kind} {file.relative_to(folder)}"
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(
        target=_work, args=(form, kind, path, sound / "dataset", folder / "out" / "d", answers), daemon=True
    )
    (folder / "out").mkdir()
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return done, "hang", f"more than {LIMIT_S} s"
    if process.exitcode == 1:
        return done, "traceback", "see above"
    if process.exitcode:
        return done, "crash", f"exit code {process.exitcode}"
    outcome, wrong = answers.get(timeout=10)
    return done, outcome, wrong


def prepare(form: str, folder: Path) -> Path:
    """Writes the sound source and its dataset."""
    (folder / "source").mkdir(parents=True)
    path = folder / "source" / SOURCES[form].path
    SOURCES[form].write(path, False)
    convert(form, path, folder / "dataset")
    return folder


def main() -> int:
    """Runs trials, prints what is wrong, and a table of outcomes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200, help="trials in all")
    parser.add_argument("--seed", type=int, default=0, help="number of the first trial")
    parser.add_argument("--formats", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for form in arguments.formats:
            prepare(form, root / form)
        for number in range(arguments.count):
            form = arguments.formats[number % len(arguments.formats)]
            work = root / "work"
            work.mkdir()
            done, outcome, wrong = trial(form, arguments.seed + number // len(arguments.formats), root / form, work)
            shutil.rmtree(work)
            outcomes[outcome] += 1
            if wrong:
                failures += 1
                print(f"{done}: {outcome}: {wrong}", flush=True)
    print(f"{sum(outcomes.values())} trials: {dict(outcomes)}, {failures} wrong")
    return min(failures, 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
