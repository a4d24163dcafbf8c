"""RLDS: episodes as TensorFlow Datasets writes them (Bridge, Open X-Embodiment, ...), read without TensorFlow.

A version folder holds `features.json` (a tree of features), `dataset_info.json` (splits and their shards) and the
shards, `NAME-SPLIT.tfrecord-00000-of-00001`. A record is one episode: the features of its steps are lists over time,
named by their path in the tree (`steps/observation/image_0`).

The importer takes one camera, `steps/action`, `steps/observation/state` as proprio, and the instruction as the task.
Where an action or a state is a group of features, its numbers (floats, integers, Booleans) are joined in the order of
their names, as float32; without a `state`, the floats of the observation are the proprio. Embeddings, and flags that
end an episode (`terminate_episode`), are left out and named. Numbers stay as they are. The action of a step leads to
the next step, so the last action of an episode is dropped. RLDS stores no rate: a few datasets' rates are known, and
the others need `--control-hz`.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers.base import Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.reading import (
    casts,
    decode_image,
    indexed_names,
    inside,
    outward,
    pick,
    read_json,
    squared,
    vectors,
)
from jepawm.data.importers.tfrecord import TFRecordFile, Value
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode, VectorSpec

KNOWN_HZ = {"bridge": 5.0, "bridge_dataset": 5.0, "droid": 15.0, "droid_100": 15.0, "fractal20220817_data": 3.0}
"""Control rates as published with the Open X-Embodiment collection and by the datasets' authors."""
_OBSERVATION, _ACTION = "steps/observation", "steps/action"
_TASKS = (
    "steps/language_instruction",
    "steps/natural_language_instruction",
    "steps/instruction",
    "steps/task",
    "steps/observation/language_instruction",
    "steps/observation/natural_language_instruction",
    "steps/observation/instruction",
    "steps/observation/task",
)
"""Where datasets keep the instruction, in the order in which it is looked for."""
# Parts of an action group that end an episode; the arm does not move by them.
_NO_ACTION = ("terminate_episode", "terminate", "is_terminal", "done")
_STATE = f"{_OBSERVATION}/state"
# Structure of every dataset, which holds nothing to convert.
_STRUCTURE = ("is_first", "is_last", "is_terminal")
_METADATA = "episode_metadata/"
_TEXT_TYPES = ("string", "object", "str")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclass(frozen=True)
class Feature:
    """One leaf of the tree of features.

    Attributes:
        name: Its path, as records name it.
        kind: `image`, `tensor`, `text`, or what else features.json says.
        shape: Of one step; -1 where it varies.
        dtype: Name of the number type.
        encoding: `none`, `bytes` or `zlib` for tensors, `jpeg` or `png` for images.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def is_camera(self) -> bool:
        """Whether a step is an RGB picture."""
        return self.kind in ("image", "tensor") and self.dtype == "uint8" and self.shape[2:] == (3,)

    @property
    def is_row(self) -> bool:
        """Whether a step is a number, or a known count of them."""
        return self.kind == "tensor" and len(self.shape) < 2 and min(self.shape, default=1) > 0

    @property
    def is_number(self) -> bool:
        """Whether a step is a float, an integer or a Boolean, or a known count of them."""
        return self.is_row and self.dtype.startswith(("float", "bfloat", "int", "uint", "bool"))

    @property
    def is_float(self) -> bool:
        """Whether a step is a float, or a known count of them."""
        return self.is_row and self.dtype.startswith(("float", "bfloat"))

    @property
    def is_text(self) -> bool:
        """Whether a step is a text."""
        return self.kind == "text" or (self.kind == "tensor" and not self.shape and self.dtype in _TEXT_TYPES)

    @property
    def width(self) -> int:
        """Numbers in a step."""
        return int(np.prod(self.shape))


class Rlds(EpisodeSource):
    """One split of a version folder.

    Raises:
        DataError: A missing or unreadable file, a feature, camera or split that is not there, a dataset whose rate is
            not known, or shards that hold other numbers of episodes than `dataset_info.json` says.
        MissingDependencyError: The package `google-crc32c` is not installed.
    """

    name = "rlds"
    about = "RLDS (TensorFlow Datasets) episodes in TFRecord files: Bridge, Open X-Embodiment"

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        features_path, info_path = self.path / "features.json", self.path / "dataset_info.json"
        try:
            features = flatten_features(read_json(features_path))
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{features_path}: not a tree of features: {error}") from error
        info = read_json(info_path)
        self._features = {feature.name: feature for feature in features}
        if not isinstance(info, dict) or not isinstance(info.get("splits"), list) or "name" not in info:
            raise DataError(f"{info_path}: expected the keys 'name' and 'splits'")
        self._dataset = str(info["name"])
        cameras = [name.removeprefix(f"{_OBSERVATION}/") for name in sorted(self._features) if self._is_camera(name)]
        self._camera = pick(
            options.camera, cameras, f"RGB image below {_OBSERVATION}, or no camera", str(features_path)
        )
        self._cameras = cameras
        self._action = self._group(_ACTION)
        if not self._action:
            raise DataError(f"{features_path}: there is no feature '{_ACTION}' of numbers")
        self._proprio = self._group(_STATE)
        if not self._proprio:
            self._proprio = [feature for feature in self._numbers_of(_OBSERVATION) if feature.is_float]
        self._task = self._find_task(str(features_path))
        if options.control_hz is None and self._dataset not in KNOWN_HZ:
            raise DataError(
                f"{info_path}: the control rate of '{self._dataset}' is not known, and RLDS does not store it; look it "
                "up and give it as --control-hz"
            )
        self._control_hz = options.control_hz or KNOWN_HZ[self._dataset]
        self._shards, self._ends = self._find_shards(info, info_path)
        self._open: dict[int, TFRecordFile] = {}

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / "features.json").is_file() and (path / "dataset_info.json").is_file()

    @property
    def num_episodes(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def spec(self) -> DatasetSpec:
        side = square_spec(*self._frame_size(), self.options)
        low, high = self._bounds()
        return DatasetSpec(
            name=self._dataset.replace("_", "-"),
            control_hz=self._control_hz,
            pixels=PixelSpec(side, side, 3, self.options.codec or "jpeg"),
            action=ActionSpec(sum(f.width for f in self._action), low, high, names=_names(self._action)),
            proprio=VectorSpec(sum(f.width for f in self._proprio), _names(self._proprio)),
            source={
                "camera": self._camera,
                "cameras": self._cameras,
                "split": self._split,
                "action": [feature.name for feature in self._action],
                "proprio": [feature.name for feature in self._proprio],
                "action_bounds": "smallest and largest recorded action, rounded outwards to two digits",
            },
        )

    def choices(self) -> Choices:
        camera = f"{_OBSERVATION}/{self._camera}"
        vectors = {feature.name: feature.dtype for feature in [*self._action, *self._proprio]}
        taken = {camera, self._task, *vectors}
        left_out = {name for name in self._features if name.startswith("steps/")} - taken
        assumed = ["an action leads from the frame of its step to the frame of the next step"]
        if self.options.control_hz is None:
            assumed.append(f"{self._control_hz:g} steps a second, as published for '{self._dataset}'")
        return Choices(
            took={
                "pixels": [camera],
                "actions": [feature.name for feature in self._action],
                "proprio": [feature.name for feature in self._proprio],
                "task": [self._task] if self._task else [],
            },
            cast=casts(vectors),
            left_out=sorted(left_out - {f"steps/{name}" for name in _STRUCTURE}),
            assumed=assumed,
        )

    def read(self, number: int) -> Episode:
        shard, record, where = self._place(number)
        camera = self._features[f"{_OBSERVATION}/{self._camera}"]
        wanted = [camera, *self._action, *self._proprio]
        names = {feature.name for feature in wanted} | ({self._task} if self._task else set())
        names |= {name for name in self._features if name.startswith(_METADATA)}
        found = shard.example(record, names)
        for feature in wanted:
            if feature.name not in found:
                raise DataError(f"{where}: the feature '{feature.name}' is missing or empty")
        side = square_spec(*self._frame_size(), self.options)
        pixels = squared(_pictures(found[camera.name], camera, f"{where}: '{camera.name}'"), side)
        rows = {feature.name: _rows(found[feature.name], feature, where) for feature in [*self._action, *self._proprio]}
        for name, values in rows.items():
            if len(values) != len(pixels):
                raise DataError(f"{where}: '{name}' has {len(values)} steps, '{camera.name}' has {len(pixels)}")
        empty = [np.empty((len(pixels), 0), dtype=np.float32)]
        return Episode(
            episode_id=number,
            pixels=pixels,
            actions=np.concatenate([rows[feature.name] for feature in self._action], axis=1)[:-1],
            proprio=np.concatenate([rows[feature.name] for feature in self._proprio] or empty, axis=1),
            info={"record": [shard.path.name, record], **_facts(found, self._task)},
        )

    def _is_camera(self, name: str) -> bool:
        return name.startswith(f"{_OBSERVATION}/") and self._features[name].is_camera

    def _group(self, name: str) -> list[Feature]:
        """A feature of numbers, or those below its name."""
        feature = self._features.get(name)
        if feature is None:
            return self._numbers_of(name)
        return [feature] if feature.is_row else []

    def _numbers_of(self, group: str) -> list[Feature]:
        below = [feature for name, feature in sorted(self._features.items()) if name.startswith(f"{group}/")]
        return [
            feature
            for feature in below
            if feature.is_number
            and "embedding" not in feature.name
            and feature.name.rsplit("/", 1)[-1] not in _NO_ACTION
        ]

    def _find_task(self, where: str) -> str | None:
        """The feature that holds the instruction, or None."""
        texts = [name for name, feature in sorted(self._features.items()) if feature.is_text]
        texts = [name for name in texts if name.startswith("steps/")]
        known = [name for name in _TASKS if name in texts]
        if known:
            return known[0]
        # A single text in a step is the instruction, whatever its name is.
        return texts[0] if len(texts) == 1 else None

    def _find_shards(self, info: dict[str, Any], info_path: Path) -> tuple[list[Path], np.ndarray]:
        splits = {str(split["name"]): split for split in info["splits"] if isinstance(split, dict) and "name" in split}
        # By default the part to train on.
        order = sorted(splits, key=lambda name: name != "train")
        self._split = pick(self.options.split, order, "split", str(info_path))
        split = splits[self._split]
        form = info.get("fileFormat") or "tfrecord"
        if form != "tfrecord":
            raise DataError(f"{info_path}: fileFormat is '{form}'; this importer reads 'tfrecord'")
        try:
            lengths = [int(length) for length in split["shardLengths"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{info_path}: split '{self._split}' has no list of numbers 'shardLengths'") from error
        shards = []
        for shard in range(len(lengths)):
            name = str(split.get("filepathTemplate") or _TEMPLATE)
            for key, value in (
                ("DATASET", self._dataset),
                ("SPLIT", self._split),
                ("FILEFORMAT", form),
                ("SHARD_INDEX", f"{shard:05d}"),
                ("NUM_SHARDS", f"{len(lengths):05d}"),
                ("SHARD_X_OF_Y", f"{shard:05d}-of-{len(lengths):05d}"),
            ):
                name = name.replace("{" + key + "}", value)
            shards.append(inside(self.path, name, f"{info_path}: split '{self._split}'"))
        missing = [path for path in shards if not path.is_file()]
        if missing:
            more = f" ({len(missing)} of the {len(shards)} shards of '{self._split}' are missing)"
            raise DataError(f"{missing[0]}: no such file{more}; copy it, or choose another --split")
        return shards, np.cumsum(lengths)

    def _file(self, shard: int) -> TFRecordFile:
        if shard not in self._open:
            # Episodes are read in order, so one open shard is enough.
            self._open = {shard: TFRecordFile(self._shards[shard])}
        return self._open[shard]

    def _place(self, number: int) -> tuple[TFRecordFile, int, str]:
        """The shard of an episode, its record there, and how errors call it."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        file, record = self._file(shard), number - first
        expected = int(self._ends[shard]) - first
        # Records before a damaged place are good, so only `leave_out_bad` goes on with such a file.
        if file.fault and (record >= len(file) or not self.options.leave_out_bad):
            raise DataError(file.fault)
        if not file.fault and len(file) != expected:
            raise DataError(f"{file.path}: {len(file)} records, dataset_info.json says {expected}; copy it again")
        return file, record, f"{file.path}: record {record}"

    def _frame_size(self) -> tuple[int, int]:
        camera = self._features[f"{_OBSERVATION}/{self._camera}"]
        if -1 in camera.shape:
            # The size is not declared: the first frame of the first episode says it.
            shape = self.first_sound(self._first_frame_shape)
            camera = Feature(camera.name, camera.kind, shape, "uint8", camera.encoding)
            self._features[camera.name] = camera
        return camera.shape[0], camera.shape[1]

    def _first_frame_shape(self, number: int) -> tuple[int, ...]:
        name = f"{_OBSERVATION}/{self._camera}"
        file, record, where = self._place(number)
        value = file.example(record, [name]).get(name)
        if not isinstance(value, list) or not value:
            raise DataError(f"{where}: '{name}' holds no encoded images")
        return decode_image(bytes(value[0]), where).shape

    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Looks over the actions of the episodes that are converted; the rest of the shards is not read."""
        lows, highs = [], []
        for number in self.sound_numbers:
            try:
                actions = self._actions_of(number)
            except DataError as error:
                self.mark_bad(number, str(error))
                continue
            lows.append(np.concatenate([values.min(axis=0) for values in actions]))
            highs.append(np.concatenate([values.max(axis=0) for values in actions]))
        if not lows:
            raise DataError(f"{self.path}: no episode holds an action")
        return outward(np.min(lows, axis=0), np.max(highs, axis=0))

    def _actions_of(self, number: int) -> list[np.ndarray]:
        names = {feature.name for feature in self._action}
        file, record, where = self._place(number)
        found = file.example(record, names, check=False)
        for name in sorted(names - {name for name, value in found.items() if len(value)}):
            raise DataError(f"{where}: the feature '{name}' is missing or empty")
        return [_rows(found[feature.name], feature, where) for feature in self._action]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def flatten_features(node: Any, name: str = "") -> list[Feature]:
    """The leaves of the tree in `features.json`."""
    if not isinstance(node, dict):
        return []
    if "featuresDict" in node:
        children = node["featuresDict"].get("features", {})
        prefix = f"{name}/" if name else ""
        return [leaf for key in sorted(children) for leaf in flatten_features(children[key], prefix + key)]
    if "sequence" in node:
        # Only the steps are a sequence that is read; one inside a step is stored in another way.
        return (
            flatten_features(node["sequence"].get("feature"), name) if name == "steps" else [Feature(name, "sequence")]
        )
    for kind in ("image", "tensor", "text"):
        if kind in node:
            facts = node[kind]
            shape = tuple(int(size) for size in facts.get("shape", {}).get("dimensions", []))
            encoding = str(facts.get("encoding") or facts.get("encodingFormat") or "none")
            return [Feature(name, kind, shape, str(facts.get("dtype", "")), encoding)]
    return [Feature(name, str(node.get("pythonClassName", "unknown")))]


def _names(features: list[Feature]) -> tuple[str, ...]:
    names: list[str] = []
    for feature in features:
        stem = feature.name.rsplit("/", 1)[-1]
        names += indexed_names(stem, feature.width) if feature.shape else [stem]
    return tuple(names)


def _rows(value: Value, feature: Feature, where: str) -> np.ndarray:
    """The steps of a tensor, `[T,width]` float32."""
    where = f"{where}: '{feature.name}'"
    if isinstance(value, list):
        if feature.encoding not in ("bytes", "zlib"):
            raise DataError(f"{where}: bytes, features.json says {feature.dtype}, encoding '{feature.encoding}'")
        try:
            size = np.dtype(feature.dtype).itemsize
        except TypeError as error:
            raise DataError(f"{where}: features.json names an unknown number type '{feature.dtype}'") from error
        try:
            plain = [zlib.decompress(step) if feature.encoding == "zlib" else bytes(step) for step in value]
        except zlib.error as error:
            raise DataError(f"{where}: cannot be decompressed: {error}") from error
        expected = feature.width * size
        for t, step in enumerate(plain):
            if len(step) != expected:
                raise DataError(f"{where}: step {t} has {len(step)} bytes, expected {expected}")
        value = np.frombuffer(b"".join(plain), dtype=feature.dtype)
    if value.size % feature.width:
        raise DataError(f"{where}: {value.size} numbers, expected rows of {feature.width}")
    return vectors(value.reshape(-1, feature.width), feature.width, where)


def _pictures(value: Value, camera: Feature, where: str) -> Any:
    if not isinstance(value, list):
        if value.size % camera.width:
            raise DataError(f"{where}: {value.size} numbers, expected frames of {camera.shape}")
        yield from value.reshape(-1, *camera.shape).astype(np.uint8)
        return
    for t, data in enumerate(value):
        picture = decode_image(bytes(data), f"{where}, step {t}")
        if picture.shape != camera.shape:
            raise DataError(f"{where}, step {t}: the image is {picture.shape}, expected {camera.shape}")
        yield picture


def _facts(found: dict[str, Value], task: str | None) -> dict[str, Any]:
    """The task, and what the record says about the whole episode."""
    facts: dict[str, Any] = {}
    for name, value in found.items():
        if not name.startswith(_METADATA) or len(value) != 1:
            continue
        item = value[0]
        facts[name.removeprefix(_METADATA)] = _text(item) if isinstance(item, memoryview) else item.item()
    texts = found.get(task) if task else None
    if isinstance(texts, list):
        named = list(dict.fromkeys(text for text in map(_text, texts) if text))
        facts["task"] = named[0] if named else ""
        if len(named) > 1:
            facts["tasks"] = named
    return facts


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", errors="replace")
