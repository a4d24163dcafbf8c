"""Recorded demonstrations of RoboCasa: HDF5 files as robomimic has them, with segments of subtasks."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from envs import checks

# Numbers of the subtasks in `meta_data_info/current_task_segment` of a recording.
SEGMENTS = {"reach": 0, "pick": 1, "place": 2}


class Demonstration:
    """One recorded demonstration in a kitchen: its model and its states.

    Args:
        model_xml: The kitchen.
        meta: RoboCasa's description of the episode.
        states: robosuite's flattened states `[T, 1 + nq + nv]`.
        segments: The subtask of each state, `[T]`; see `SEGMENTS`. None if the recording has none.
        source: File and demonstration, for messages.
    """

    def __init__(
        self, model_xml: str, meta: dict[str, Any], states: np.ndarray, segments: np.ndarray | None, source: str
    ) -> None:
        self.model_xml, self.meta, self.states, self.segments, self.source = model_xml, meta, states, segments, source

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> "Demonstration":
        """Reads one from an HDF5 file of RoboCasa's layout.

        Raises:
            ImportError: h5py is not installed.
            ValueError: No such file or demonstration, or one that lacks its model or states.
        """
        if not path.is_file():
            raise ValueError(f"demos: expected an HDF5 file, found no file at {path}")
        h5py = checks.require("h5py", "jepawm[hdf5]")
        with h5py.File(path, "r") as file:
            known = sorted(file.get("data", {}), key=lambda demo: (len(demo), demo))
            if not known:
                raise ValueError(f"demos: {path} has no demonstrations; expected groups data/demo_0, data/demo_1, ...")
            name = known[0] if name is None else checks.known_name("demo", name, known)
            group, source = file["data"][name], f"{path}, {name}"
            lacking = [f"attribute {key}" for key in ("model_file", "ep_meta") if key not in group.attrs]
            lacking += ["states"] if "states" not in group else []
            if lacking:
                raise ValueError(f"demos: {source} lacks {', '.join(lacking)}")
            segments = group.get("meta_data_info/current_task_segment")
            return cls(
                str(group.attrs["model_file"]),
                json.loads(group.attrs["ep_meta"]),
                np.asarray(group["states"], dtype=np.float64),
                None if segments is None else np.asarray(segments).reshape(-1),
                source,
            )

    def build(self, env: Any) -> None:
        """Gives an environment the recorded kitchen."""
        env.set_ep_meta(self.meta)
        # A full reset, which makes the objects and fixtures of the recording.
        env.hard_reset = True
        env.reset()
        env.hard_reset = False
        env.reset_from_xml_string(env.edit_model_xml(self.model_xml))

    def draw_slice(self, random: np.random.Generator, subtask: str) -> tuple[np.ndarray, np.ndarray]:
        """Draws one segment of a subtask: its first and its last flattened state.

        Raises:
            ValueError: The demonstration has no such segment.
        """
        if subtask == "task":
            return self.states[0], self.states[-1]
        if self.segments is None:
            raise ValueError(f"demos: {self.source} does not tell subtasks (meta_data_info/current_task_segment)")
        of_subtask = np.concatenate([[False], self.segments == SEGMENTS[subtask], [False]])
        edges = np.flatnonzero(of_subtask[1:] != of_subtask[:-1]).reshape(-1, 2)
        # A segment of one state has no way from a start to a goal.
        edges = edges[edges[:, 1] - edges[:, 0] > 1]
        if not len(edges):
            raise ValueError(f"demos: {self.source} has no segment of subtask '{subtask}' (number {SEGMENTS[subtask]})")
        first, end = edges[int(random.integers(len(edges)))]
        return self.states[first], self.states[end - 1]
