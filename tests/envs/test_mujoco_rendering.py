"""Pictures of any MuJoCo model: which way is up, what may change in between, and contexts that leave quietly."""

import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from envs.mujoco_rendering import MujocoPictures, gl_renderer, prepare_backend

BACKEND = prepare_backend()
mujoco = pytest.importorskip("mujoco")

# From above: a red box on the left and at the top, a green one on the right and at the bottom.
WORLD = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <asset>
    <texture name="floor" type="2d" builtin="flat" rgb1="0 0 1" width="8" height="8"/>
    <material name="floor" texture="floor"/>
  </asset>
  <worldbody>
    <camera name="above" pos="0 0 5"/>
    <geom type="plane" size="10 10 1" material="floor"/>
    <geom name="red" type="box" size=".5 .5 .1" pos="-1 1 .1" rgba="1 0 0 1"/>
    <geom type="box" size=".5 .5 .1" pos="1 -1 .1" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""


def world() -> tuple[Any, Any]:
    model = mujoco.MjModel.from_xml_string(WORLD)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def quarters(pixels: np.ndarray) -> list[str]:
    """What is seen in the middle of each quarter: top left, top right, bottom left, bottom right."""
    n = len(pixels) // 4
    shown = [pixels[y, x] for y in (n, -n) for x in (n, -n)]
    return ["rgb"[int(np.argmax(colour))] for colour in shown]


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        ({}, "rbbg"),
        ({"flip": True}, "gbbr"),
        ({"bottom_up": True}, "bgrb"),
        ({"flip": True, "bottom_up": True}, "brgb"),
    ],
)
def test_which_way_is_up(ways: dict[str, bool], expected: str) -> None:
    model, data = world()
    pictures = MujocoPictures(model, 64, "above", "fast", **ways)
    pixels = pictures.draw(data)
    assert "".join(quarters(pixels)) == expected
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    pixels[:] = 0
    assert "".join(quarters(pictures.draw(data))) == expected
    pictures.close()


def test_equals_mujocos_own_renderer() -> None:
    model, data = world()
    pictures = MujocoPictures(model, 96, "above", "faithful")
    with mujoco.Renderer(model, 96, 96) as renderer:
        renderer.update_scene(data, "above")
        np.testing.assert_array_equal(pictures.draw(data), renderer.render())
    pictures.close()


def test_what_may_change_between_pictures() -> None:
    model, data = world()
    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation, camera.distance = 90, -90, 5
    pictures = MujocoPictures(model, 64, camera, "fast")
    before = pictures.draw(data)
    assert "".join(quarters(before)) == "rbbg"
    model.geom("red").rgba[:] = 0, 0, 1, 1
    assert "".join(quarters(pictures.draw(data))) == "bbbg"
    camera.azimuth = -90
    assert "".join(quarters(pictures.draw(data))) == "gbbb"
    model.tex_data[:] = np.tile(np.array([255, 0, 0], np.uint8), len(model.tex_data) // 3)
    pictures.textures_changed()
    assert "".join(quarters(pictures.draw(data))) == "grrb"
    pictures.close()
    # The next picture makes another context, from the model as it is now.
    assert "".join(quarters(pictures.draw(data))) == "grrb"
    pictures.close()


def test_one_goes_while_another_draws() -> None:
    model, data = world()
    first, second = MujocoPictures(model, 64, "above", "fast"), MujocoPictures(model, 48, "above", "faithful")
    first.draw(data)
    expected = second.draw(data)
    first.close()
    np.testing.assert_array_equal(second.draw(data), expected)
    third = MujocoPictures(model, 32, "above", "fast")
    third.draw(data)
    del third
    np.testing.assert_array_equal(second.draw(data), expected)
    second.close()


def test_pickles_without_its_context() -> None:
    model, data = world()
    pictures = MujocoPictures(model, 32, "above", "fast")
    expected = pictures.draw(data)
    twin = pickle.loads(pickle.dumps(pictures))
    np.testing.assert_array_equal(twin.draw(data), expected)
    pictures.close()
    twin.close()


def test_errors() -> None:
    model, data = world()
    with pytest.raises(ValueError, match="quality: expected one of auto, faithful, fast; found 'quick'"):
        MujocoPictures(model, 64, "above", "quick")
    with pytest.raises(ValueError, match=r"camera: expected one of above; found 'abuve' .did you mean 'above'"):
        MujocoPictures(model, 64, "abuve").draw(data)


def test_a_process_that_closes_nothing_ends_quietly() -> None:
    code = (
        "from test_mujoco_rendering import world, MujocoPictures\n"
        "model, data = world()\n"
        "kept = [MujocoPictures(model, size, 'above') for size in (32, 64)]\n"
        "[pictures.draw(data) for pictures in kept]\n"
    )
    environment = os.environ | {"PYTHONPATH": ":".join(["", *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_backend() -> None:
    assert os.environ.get("MUJOCO_GL", "default") == BACKEND
    assert gl_renderer()


def draw_in_a_process(value: str) -> tuple[str, str]:
    """What `MUJOCO_GL=value` draws with in a process of its own, and the error it ends with."""
    code = (
        "import os\n"
        "from envs.mujoco_rendering import import_mujoco, gl_renderer\n"
        "try:\n"
        "    import_mujoco('mujoco')\n"
        "    gl_renderer()\n"
        "    print(os.environ['MUJOCO_GL'], end='')\n"
        "except ValueError as error:\n"
        "    print(f'|{error}', end='')\n"
    )
    environment = os.environ | {"PYTHONPATH": ":".join(["", *sys.path]), "MUJOCO_GL": value}
    environment.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    backend, _, error = done.stdout.partition("|")
    return backend, error or done.stderr


def test_an_empty_variable_counts_as_not_set() -> None:
    backend, error = draw_in_a_process("")
    assert (backend, error) == ("egl", "") or "MUJOCO_GL='egl'" in error


@pytest.mark.parametrize("value", ["nonsense", "disabled"])
def test_a_variable_that_cannot_draw_is_named(value: str) -> None:
    backend, error = draw_in_a_process(value)
    assert backend == ""
    assert error.startswith(f"MuJoCo cannot draw with MUJOCO_GL='{value}'")
    assert "jepawm doctor" in error
