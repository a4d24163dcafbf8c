"""Checks that all others build on: spaces, and observations that match them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jepawm.env_check.trial import Answer, Check, Trial, fail, note, ok, shape_of


def _action_space(trial: Trial) -> Iterator[Answer]:
    from gymnasium import spaces

    space: Any = trial.bare.action_space
    expected = "expected a Box with one axis"
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        yield fail(f"{expected}, found {space}; without sample_start_goal and render_state it would be adapted")
        return
    if space.dtype != np.float32:
        yield fail(f"{expected} and dtype float32, found {space.dtype}; plans are float32")
    elif not np.isfinite(space.low).all() or not np.isfinite(space.high).all():
        yield fail(f"expected bounds in every dimension, found low {space.low.tolist()}, high {space.high.tolist()}")
    elif not (space.low <= space.high).all() or (space.low == space.high).all():
        yield fail(
            "low must not lie above high, and below it in some dimension, found "
            f"{space.low.tolist()} and {space.high.tolist()}"
        )
    else:
        names = tuple(getattr(trial.bare, "action_names", ()))
        if names and len(names) != space.shape[0]:
            yield fail(f"action_names has {len(names)} names for {space.shape[0]} numbers")
        yield ok(f"{space.shape[0]} numbers, from {space.low.tolist()} to {space.high.tolist()}")


def _observation_space(trial: Trial) -> Iterator[Answer]:
    from gymnasium import spaces

    space: Any = trial.bare.observation_space
    size = trial.config.image_size
    if not isinstance(space, spaces.Dict) or not {"pixels", "proprio"} <= set(space.spaces):
        yield fail(f"expected a Dict with 'pixels' and 'proprio', found {space}")
        return
    pixels, proprio = space["pixels"], space["proprio"]
    width = (proprio.shape or (0,))[0]
    if pixels.shape != (size, size, 3) or pixels.dtype != np.uint8:
        yield fail(f"pixels: expected uint8 ({size}, {size}, 3), as image_size says, found {shape_of(pixels)}")
    if proprio.dtype != np.float32 or len(proprio.shape or ()) != 1:
        yield fail(f"proprio: expected float32 with one axis, found {shape_of(proprio)}")
        return
    names = getattr(trial.bare, "proprio_names", None)
    if names is None or len(names) != width:
        yield fail(f"proprio_names: expected one name for each of {width} numbers, found {names}")
    if trial.is_adapted and trial.bare.left_out:
        yield note(f"parts of the observation that are neither its picture nor numbers: {trial.bare.left_out}")
    yield ok(f"pixels uint8 ({size}, {size}, 3), proprio float32 of {width}")


def _facts(trial: Trial) -> Iterator[Answer]:
    names, rate = tuple(trial.bare.sim_state_names), trial.bare.control_hz
    if not names or len(set(names)) < len(names):
        yield fail(f"sim_state_names: expected one different name for each number of sim_state, found {names}")
    elif not isinstance(rate, int | float) or not rate > 0:
        yield fail(f"control_hz: expected env_steps per second, a number above 0, found {rate!r}")
    else:
        yield ok(f"{rate:g} env_steps per second, sim_state of {len(names)} numbers")
        if getattr(trial.bare, "control_hz_from", "") == "assumed":
            yield note("the rate is assumed, the environment has none; give it with --options control_hz=NUMBER")


def _observations(trial: Trial) -> Iterator[Answer]:
    space, width = trial.bare.observation_space, len(trial.bare.sim_state_names)
    trial.reset(0)
    for count, action in enumerate([None, *trial.walk(0, 4)]):
        result: tuple[Any, ...] = trial.reset(0) if action is None else trial.env.step(action)
        seen, info = result[0], result[-1]
        after = f"after {count} env_step(s)"
        for key in ("pixels", "proprio"):
            value, expected = seen.get(key), space[key]
            if not isinstance(value, np.ndarray) or value.dtype != expected.dtype or value.shape != expected.shape:
                found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
                yield fail(f"{key} {after}: the observation space says {shape_of(expected)}, found {found}")
                return
            if not np.isfinite(value).all():
                yield fail(f"{key} {after}: not all finite")
                return
            if not ((value >= expected.low) & (value <= expected.high)).all():
                yield fail(f"{key} {after}: outside the bounds of the observation space")
                return
        state = info.get("sim_state")
        if not isinstance(state, np.ndarray) or state.shape != (width,) or not np.isfinite(state).all():
            yield fail(f"info['sim_state'] {after}: expected {width} finite numbers in an array, found {state!r}")
            return
        if len(result) == 5 and result[2]:
            break
    yield ok("they match the spaces, and info['sim_state'] is there")


BASICS: dict[str, Check] = {
    "action space": _action_space,
    "observation space": _observation_space,
    "facts": _facts,
    "observations": _observations,
}
