"""Actions made by hand, as a YAML file of named branches, in true units.

```yaml
horizon: 4                  # model steps of every branch
unnamed: rest               # rest: 0, or the bound next to it; recorded: as in the clip
branches:
  recorded: recorded        # the clip's own actions
  open gripper and lift: {gripper: -0.2, z: 0.05}        # constant: in every env_step
  turn slowly: {yaw: {ramp: [0, 0.1]}}                   # from the first env_step to the last
  push, then pull:                                       # parts, one after the other
    - {chunks: 2, x: {per_chunk: [0.05, 0.1]}}           # a number for each chunk, held throughout it
    - {chunks: 2, x: [-0.1, -0.05]}                      # a list: a number for each env_step
```

Components are called as the action's names are; a change of pose may leave out its `d` (`z` is `dz`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import yaml

from jepawm.errors import ConfigError, did_you_mean
from jepawm.types import ActionSpec

RECORDED = "recorded"
_KEYS = ("horizon", "unnamed", "beyond_bounds", "branches")
_POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
# Numbers in YAML are decimal, bounds are often float32: what differs by less is the bound.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Branches:
    """Named sequences of actions of one length.

    Attributes:
        names: One for each branch.
        actions_BSa: `[B,S,a]` float32, raw units, one row an env_step; `S = horizon * frameskip`.
        horizon: Model steps of a branch.
    """

    names: tuple[str, ...]
    actions_BSa: np.ndarray
    horizon: int

    def chunks(self, frameskip: int) -> np.ndarray:
        """`[B,H,A]` action chunks."""
        return self.actions_BSa.reshape(len(self.names), self.horizon, frameskip * self.actions_BSa.shape[-1])


def read_branches(
    path: str | os.PathLike[str], action: ActionSpec, frameskip: int, recorded_Sa: np.ndarray | None = None
) -> Branches:
    """Reads a file of branches.

    Args:
        path: The YAML file.
        action: What one env_step's action is: names and bounds.
        frameskip: Env_steps of a chunk.
        recorded_Sa: `[S,a]` recorded actions from the present on, for branches that take them; None: there are none.

    Raises:
        ConfigError: No such file, or one that is no YAML; an unknown key or component, a wrong number of numbers, an
            action beyond the bounds, recorded actions that there are not. Names the place in the file.
    """
    where = os.fspath(path)
    try:
        with open(where, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a mapping of {', '.join(_KEYS)}, found {type(data).__name__}")
    for key in data:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key '{key}'{did_you_mean(str(key), _KEYS)}")
    horizon, branches = data.get("horizon"), data.get("branches")
    if not _is_count(horizon):
        raise ConfigError(f"{where}: horizon must be the number of model steps of every branch, found {horizon!r}")
    if not isinstance(branches, dict) or not branches:
        raise ConfigError(f"{where}: branches must be a mapping of names to actions, found {branches!r}")
    reader = _Reader(
        action=action,
        frameskip=frameskip,
        horizon=horizon,
        recorded_Sa=recorded_Sa,
        unnamed=_choice(data, "unnamed", ("rest", RECORDED), where),
        is_bounded=_choice(data, "beyond_bounds", ("refuse", "allow"), where) == "refuse",
    )
    read = [reader.branch(value, f"{where}: branches['{name}']") for name, value in branches.items()]
    return Branches(tuple(str(name) for name in branches), np.stack(read).astype(np.float32), horizon)


@dataclass(frozen=True)
class _Reader:
    """What the numbers of a branch mean."""

    action: ActionSpec
    frameskip: int
    horizon: int
    recorded_Sa: np.ndarray | None
    unnamed: str
    is_bounded: bool

    def branch(self, value: Any, where: str) -> np.ndarray:
        """`[S,a]` actions of one branch."""
        if value == RECORDED:
            return self._recorded(where)
        parts = value if isinstance(value, list) else [value]
        rows_Sa = self._unnamed(where).copy()
        named_Sa = np.zeros(rows_Sa.shape, bool)
        done = 0
        for number, part in enumerate(parts):
            place = f"{where}[{number}]" if isinstance(value, list) else where
            if not isinstance(part, dict):
                raise ConfigError(
                    f"{place} must be '{RECORDED}', a mapping of components to numbers, or a list of such, found "
                    f"{part!r}"
                )
            chunks = part.get("chunks", self.horizon if part is value else None)
            if not _is_count(chunks) or done + chunks > self.horizon:
                raise ConfigError(
                    f"{place}.chunks must be the number of model steps of this part, and all parts have {self.horizon} "
                    f"together (horizon); found {chunks!r} after {done}"
                )
            span = slice(done * self.frameskip, (done + chunks) * self.frameskip)
            for name, numbers in part.items():
                if name != "chunks":
                    column = self._column(str(name), place)
                    rows_Sa[span, column] = self._numbers(numbers, chunks, f"{place}.{name}")
                    named_Sa[span, column] = True
            done += chunks
        if done < self.horizon:
            raise ConfigError(f"{where}: its parts have {done} chunks together, horizon is {self.horizon}")
        if self.is_bounded:
            self._check_bounds(rows_Sa, named_Sa, where)
        return rows_Sa

    def _unnamed(self, where: str) -> np.ndarray:
        """`[S,a]` actions before any component is named."""
        if self.unnamed == RECORDED:
            return self._recorded(where)
        rest = np.clip(np.zeros(self.action.dim), self.action.low, self.action.high)
        return np.tile(rest, (self.horizon * self.frameskip, 1))

    def _recorded(self, where: str) -> np.ndarray:
        steps = self.horizon * self.frameskip
        recorded_Sa = np.zeros((0, self.action.dim)) if self.recorded_Sa is None else self.recorded_Sa
        if len(recorded_Sa) < steps:
            raise ConfigError(
                f"{where} takes recorded actions of {steps} env_steps (horizon {self.horizon} x frameskip "
                f"{self.frameskip}), and there are {len(recorded_Sa)} from the present on; lower horizon, begin at an "
                "earlier --frame, or name the actions"
            )
        return recorded_Sa[:steps].astype(np.float64)

    def _column(self, name: str, where: str) -> int:
        names = self.action.names or tuple(str(number) for number in range(self.action.dim))
        spoken = f"d{name}" if name in _POSE and name not in names else name
        if spoken not in names:
            raise ConfigError(f"{where}: the action has no component '{name}'{did_you_mean(name, names)}")
        return names.index(spoken)

    def _numbers(self, value: Any, chunks: int, where: str) -> np.ndarray | float:
        """One number, or `[chunks * frameskip]` numbers."""
        steps = chunks * self.frameskip
        if _is_number(value):
            return float(value)
        if isinstance(value, list):
            return _array(value, steps, f"{where} (a number for each env_step: {chunks} chunks x {self.frameskip})")
        if isinstance(value, dict) and list(value) == ["ramp"]:
            first, last = _array(value["ramp"], 2, f"{where}.ramp (the first and the last env_step's)")
            return np.linspace(first, last, steps)
        if isinstance(value, dict) and list(value) == ["per_chunk"]:
            return np.repeat(_array(value["per_chunk"], chunks, f"{where}.per_chunk"), self.frameskip)
        raise ConfigError(
            f"{where} must be a number, a list, {{ramp: [FIRST, LAST]}} or {{per_chunk: [...]}}, found {value!r}"
        )

    def _check_bounds(self, rows_Sa: np.ndarray, named_Sa: np.ndarray, where: str) -> None:
        low, high = np.asarray(self.action.low), np.asarray(self.action.high)
        beyond = named_Sa & ((rows_Sa < low - _TOLERANCE) | (rows_Sa > high + _TOLERANCE))
        remedy = "give one within them, or write beyond_bounds: allow"
        if beyond.any():
            step, column = (int(at) for at in np.argwhere(beyond)[0])
            name = self.action.names[column] if self.action.names else str(column)
            units = f" ({self.action.units})" if self.action.units else ""
            raise ConfigError(
                f"{where}: {name} is {rows_Sa[step, column]:g} at env_step {step}; its bounds are {low[column]:g} to "
                f"{high[column]:g}{units}; {remedy}"
            )
        norms = np.where(named_Sa.any(axis=1), np.linalg.norm(rows_Sa, axis=1), 0.0)
        step, most = int(norms.argmax()), self.action.max_norm
        if most is not None and norms[step] > most + _TOLERANCE:
            raise ConfigError(
                f"{where}: the action of env_step {step} is {norms[step]:g} long; the largest norm is {most:g}; "
                f"{remedy}"
            )


def _choice(data: Mapping[str, Any], key: str, known: Sequence[str], where: str) -> str:
    value = data.get(key, known[0])
    if value not in known:
        raise ConfigError(f"{where}: {key} must be {' or '.join(known)}, found {value!r}")
    return str(value)


def _array(value: Any, length: int, where: str) -> np.ndarray:
    if not isinstance(value, list) or len(value) != length or not all(_is_number(item) for item in value):
        raise ConfigError(f"{where}: expected {length} numbers, found {value!r}")
    return np.asarray(value, np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
