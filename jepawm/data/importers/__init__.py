"""Importers: each module translates one family of formats into the episode format.

`FORMATS` lists them; `open_source` recognises a path. A format's own package (zarr, h5py, ...) is imported when a
source of that format is opened, not before. `docs/extend/importer.md` shows how to add one.
"""

import importlib
import os
from pathlib import Path

from jepawm.data.importers.base import Choices, EpisodeSource, ImportOptions
from jepawm.data.importers.conversion import import_episodes
from jepawm.errors import DataError, did_you_mean

__all__ = [
    "FORMATS",
    "Choices",
    "EpisodeSource",
    "ImportOptions",
    "import_episodes",
    "open_source",
    "source_class",
]

# In the order in which a path is tried.
FORMATS: dict[str, str] = {
    "pusht-zarr": "jepawm.data.importers.pusht_zarr:PushTZarr",
    "zarr-buffer": "jepawm.data.importers.zarr_buffer:ZarrBuffer",
    "dino-wm-pusht": "jepawm.data.importers.dino_wm:DinoWMPushT",
    "dino-wm-pointmaze": "jepawm.data.importers.dino_wm_tensors:DinoWMPointMaze",
    "dino-wm-wall": "jepawm.data.importers.dino_wm_tensors:DinoWMWall",
    "dino-wm-rope": "jepawm.data.importers.dino_wm_tensors:DinoWMRope",
    "dino-wm-granular": "jepawm.data.importers.dino_wm_tensors:DinoWMGranular",
    "metaworld-parquet": "jepawm.data.importers.metaworld_parquet:MetaworldParquet",
    "stable-worldmodel": "jepawm.data.importers.stable_worldmodel:StableWorldModel",
    "lerobot": "jepawm.data.importers.lerobot:LeRobot",
    "rlds": "jepawm.data.importers.rlds:Rlds",
    "droid-raw": "jepawm.data.importers.droid_raw:DroidRaw",
    "franka-hdf5": "jepawm.data.importers.franka_hdf5:FrankaHdf5",
    "robocasa-hdf5": "jepawm.data.importers.robocasa_hdf5:RoboCasaHdf5",
    "video-folder": "jepawm.data.importers.video_folder:VideoFolder",
}


def source_class(name: str) -> type[EpisodeSource]:
    """The importer of a format.

    Args:
        name: A key of `FORMATS`, or `MODULE:CLASS` for an importer outside this package.

    Raises:
        DataError: No such format, module or class.
    """
    if ":" not in name and name not in FORMATS:
        raise DataError(
            f"unknown format '{name}'{did_you_mean(name, FORMATS)}; an importer of your own is named as MODULE:CLASS"
        )
    module, _, attribute = FORMATS.get(name, name).partition(":")
    try:
        importer = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        if name in FORMATS:
            raise
        raise DataError(f"format '{name}': the importer cannot be found: {error}") from error
    if not (isinstance(importer, type) and issubclass(importer, EpisodeSource)):
        raise DataError(f"format '{name}': {attribute} is no EpisodeSource")
    return importer


def open_source(
    path: str | os.PathLike[str], form: str = "auto", options: ImportOptions | None = None
) -> EpisodeSource:
    """Opens a source.

    Args:
        path: File or folder.
        form: A key of `FORMATS`, `MODULE:CLASS`, or `auto` to recognise the format by the files.
        options: How to read it.

    Raises:
        DataError: Nothing is at the path, the format is unknown, no format or more than one recognises the path, or
            the importer refuses the source.
        MissingDependencyError: The format's package is not installed.
    """
    path, options = Path(path), options or ImportOptions()
    if form != "auto":
        importer = source_class(form)
    elif not path.exists():
        raise DataError(f"{path}: there is nothing to convert")
    else:
        fitting = [name for name in FORMATS if source_class(name).recognises(path)]
        if len(fitting) != 1:
            what = f"looks like {' and like '.join(fitting)}" if fitting else "looks like no known format"
            raise DataError(f"{path}: {what}; say which with --from FORMAT (known: {', '.join(FORMATS)})")
        importer = source_class(fitting[0])
    if not path.exists():
        raise DataError(f"{path}: there is nothing to convert")
    return importer(path, options)
