"""Does one of MuJoCo's ways of drawing without a screen work here? `python -m jepawm.cli.doctor_rendering egl` answers.

A process can use only one way, and a broken driver may end it, so the doctor asks in a process for each.
"""

import ctypes
import ctypes.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BACKENDS = ("egl", "osmesa")
SIZE_PX = 224
TIMED_PICTURES = 5
TIMEOUT_S = 180

# A red box on the left, low; a green ball on the right, high. The camera looks along y, so x runs to the right.
SCENE = """
<mujoco>
  <visual><headlight ambient="0.5 0.5 0.5" diffuse="0.5 0.5 0.5" specular="0 0 0"/></visual>
  <worldbody>
    <light pos="0 -2 3" dir="0 0.5 -1"/>
    <camera name="doctor" pos="0 -3 1" xyaxes="1 0 0 0 0 1"/>
    <geom type="plane" size="3 3 0.1" rgba="0.5 0.5 0.5 1"/>
    <geom type="box" pos="-0.6 0 0.4" size="0.3 0.3 0.3" rgba="1 0.05 0.05 1"/>
    <geom type="sphere" pos="0.6 0 1.6" size="0.3" rgba="0.05 1 0.05 1"/>
  </worldbody>
</mujoco>
"""
OTHER_SCENE = """
<mujoco><worldbody>
  <light pos="0 -2 3"/><camera name="doctor" pos="0 -3 1" xyaxes="1 0 0 0 0 1"/>
  <geom type="sphere" pos="0 0 1" size="0.8" rgba="0.05 0.05 1 1"/>
</worldbody></mujoco>
"""

# What each way needs: a library, and the Debian package that brings it.
_NEEDS = {
    "egl": (
        (("libEGL.so.1",), "libegl1"),
        (("libGL.so.1", "libOpenGL.so.0"), "libgl1"),
        # A vendor's own driver, or Mesa's.
        (("libEGL_nvidia.so.0", "libEGL_mesa.so.0"), "libegl-mesa0"),
        (("libEGL_nvidia.so.0", "swrast_dri.so", "libgallium"), "libgl1-mesa-dri"),
    ),
    "osmesa": ((("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"), "libosmesa6"),),
}


def has_library(name: str) -> bool:
    """Whether the loader, or Mesa's folder of drivers, has a library."""
    if name.endswith("_dri.so") or name == "libgallium":
        folders = [f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib", "/usr/lib64"]
        places = [place for folder in folders for place in (folder, f"{folder}/dri")]
        return any(entry.startswith(name) for place in places if os.path.isdir(place) for entry in os.listdir(place))
    if ctypes.util.find_library(name.removeprefix("lib").split(".so")[0]) is None:
        try:
            ctypes.CDLL(name)
        except OSError:
            return False
    return True


def missing_packages(backend: str, has: Callable[[str], bool] = has_library) -> list[str]:
    """Debian packages whose libraries are not here, of those that a way of drawing needs."""
    return [package for libraries, package in _NEEDS[backend] if not any(has(library) for library in libraries)]


def examine(backend: str) -> dict[str, Any]:
    """Draws in a process of its own.

    Args:
        backend: `egl` or `osmesa`.

    Returns:
        `works` and, where it does, what `draw_all` found; else `error`, the last line it said, and `missing`.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path}
    # PyOpenGL has a setting of its own, which would win.
    environment.pop("PYOPENGL_PLATFORM", None)
    command = [sys.executable, "-m", "jepawm.cli.doctor_rendering", backend]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"works": False, "error": f"no picture within {TIMEOUT_S} s", "missing": missing_packages(backend)}
    if done.returncode == 0 and done.stdout.strip():
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return {"works": not found["problems"], **found, "missing": []}
    lines = [line for line in done.stderr.strip().splitlines() if line.strip() and not line.startswith(" ")]
    last = lines[-1] if lines else f"ended with exit code {done.returncode}"
    return {"works": False, "error": last, "missing": missing_packages(backend)}


def draw_all() -> dict[str, Any]:
    """Draws the known scene in this process, the way `$MUJOCO_GL` says.

    Returns:
        `renderer`: OpenGL's name for what draws; `software`: whether that is the CPU; `fast_ms`, `faithful_ms`: one
        picture of 224 px; `problems`: what is wrong with the pictures.
    """
    import mujoco

    from envs.mujoco_rendering import MujocoPictures, draws_in_software, gl_renderer

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    ms, problems = {}, []
    for quality in ("fast", "faithful"):
        pictures = MujocoPictures(model, SIZE_PX, "doctor", quality)
        pixels = pictures.draw(data)
        problems += [f"{quality}: {problem}" for problem in problems_of(pixels)]
        began = time.perf_counter()
        for _ in range(TIMED_PICTURES):
            pictures.draw(data)
        ms[f"{quality}_ms"] = 1e3 * (time.perf_counter() - began) / TIMED_PICTURES
        if quality == "fast":
            problems += _beside_another(pictures, pixels, data)
        pictures.close()
    return {"renderer": gl_renderer(), "software": draws_in_software(), **ms, "problems": problems}


def problems_of(pixels: np.ndarray) -> list[str]:
    """What is wrong with a picture `[Y,X,C]` of the scene: empty, upside down, mirrored, or colours swapped."""
    if (pixels == pixels[0, 0]).all():
        return [f"the picture is all of one colour, {pixels[0, 0].tolist()}"]
    middle = (np.array(pixels.shape[:2]) - 1) / 2
    red, green = _centre(pixels, 0), _centre(pixels, 1)
    if red is None or green is None:
        blue = _centre(pixels, 2)
        swapped = blue is not None
        return ["red and blue are swapped" if swapped else "the red box or the green ball is not to be seen"]
    problems = []
    if red[0] < middle[0] or green[0] > middle[0]:
        problems.append("it is upside down")
    if red[1] > middle[1] or green[1] < middle[1]:
        problems.append("left and right are swapped")
    return problems


def _centre(pixels: np.ndarray, channel: int) -> np.ndarray | None:
    """Middle (y, x) of what is clearly of one colour."""
    values = pixels.astype(np.int16)
    others = np.delete(values, channel, axis=-1).max(axis=-1)
    where = np.argwhere((values[..., channel] > 90) & (values[..., channel] > 2 * others))
    return where.mean(axis=0) if len(where) > 20 else None


def _beside_another(pictures: Any, pixels: np.ndarray, data: Any) -> list[str]:
    """Draws another scene in a second renderer, then the first again."""
    import mujoco

    from envs.mujoco_rendering import MujocoPictures

    model = mujoco.MjModel.from_xml_string(OTHER_SCENE)
    other_data = mujoco.MjData(model)
    mujoco.mj_forward(model, other_data)
    other = MujocoPictures(model, SIZE_PX // 2, "doctor", "fast")
    theirs = other.draw(other_data)
    problems = []
    if not np.array_equal(pictures.draw(data), pixels):
        problems.append("a second renderer changes the pictures of the first")
    if not np.array_equal(other.draw(other_data), theirs):
        problems.append("the first renderer changes the pictures of a second")
    other.close()
    if not np.array_equal(pictures.draw(data), pixels):
        problems.append("pictures change when a second renderer is closed")
    return problems


if __name__ == "__main__":
    os.environ["MUJOCO_GL"] = sys.argv[1]
    print(json.dumps(draw_all()))
