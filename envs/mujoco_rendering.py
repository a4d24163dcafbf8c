"""Pictures of MuJoCo worlds, without a screen: one renderer for every MuJoCo environment here.

Two qualities. `faithful` draws what the model asks for: shadows, reflections, multisampling. `fast` leaves those three
out, and is ten or more times as fast where no GPU draws. `auto` is `faithful` on a GPU
and `fast` on Mesa's software renderer.
"""

import atexit
import contextlib
import importlib.util
import os
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from envs import checks

Quality = Literal["auto", "fast", "faithful"]
QUALITIES = ("auto", "fast", "faithful")

# Names of OpenGL renderers that draw on the CPU.
_SOFTWARE = ("llvmpipe", "softpipe", "swiftshader", "software")


def prepare_backend() -> str:
    """Chooses how MuJoCo draws without a screen, unless `$MUJOCO_GL` is set. Call it before MuJoCo is imported.

    An empty variable counts as not set: some launchers export every variable that they know.

    Returns:
        `egl`, `osmesa`, `glfw`, or `cgl` and the like on systems without a choice.
    """
    if not os.environ.get("MUJOCO_GL") and sys.platform.startswith("linux") and "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = "egl"
    return os.environ.get("MUJOCO_GL") or "default"


def import_mujoco(extra: str) -> Any:
    """Imports MuJoCo so that it can draw without a screen, or names the extra to install.

    Raises:
        ImportError: It is not installed.
        ValueError: `$MUJOCO_GL` is no way to draw that MuJoCo knows, or its library is absent.
    """
    prepare_backend()
    if importlib.util.find_spec("mujoco") is None:
        return checks.require("mujoco", f"jepawm[{extra}]")
    with _naming_the_backend():
        return checks.require("mujoco", f"jepawm[{extra}]")


@contextlib.contextmanager
def _naming_the_backend() -> Iterator[None]:
    """Names the value of `$MUJOCO_GL` when the window system fails; the window system's own errors do not."""
    try:
        yield
    # What a driver raises is not declared anywhere: PyOpenGL alone raises AttributeError, OpenGL.error.Error and
    # ctypes' errors.
    except Exception as error:
        value = os.environ.get("MUJOCO_GL", "")
        raise ValueError(
            f"MuJoCo cannot draw with MUJOCO_GL='{value}' ({type(error).__name__}: {error}); "
            "jepawm doctor says which values work on this machine"
        ) from error


class MujocoPictures:
    """Draws a MuJoCo model at one size from one camera. The first picture makes the OpenGL context; a copy or pickle
    makes its own.

    Colours, sizes and lights of the model may change between pictures; see `textures_changed` for textures.

    Args:
        model: An `mjModel`.
        image_size: Height and width of the pictures [px].
        camera: Name of a camera of the model, or an `MjvCamera`, which may be moved between pictures.
        quality: See the module.
        flip: Turn pictures upside down and left to right, for cameras that are mounted so.
        bottom_up: Whether the lowest row comes first, as in mujoco-py and therefore in some published pictures.
        hidden_geom_groups: Groups of geoms that are not drawn, e.g. those used for collisions only.

    Raises:
        ValueError: An unknown quality; at the first picture: an unknown camera, or a `$MUJOCO_GL` that cannot draw.
    """

    def __init__(
        self,
        model: Any,
        image_size: int,
        camera: Any,
        quality: str = "auto",
        *,
        flip: bool = False,
        bottom_up: bool = False,
        hidden_geom_groups: tuple[int, ...] = (),
    ) -> None:
        checks.known_name("quality", quality, QUALITIES)
        self.model = model
        self.image_size = image_size
        self.camera = camera
        self.quality = quality
        self.flip = flip
        self.bottom_up = bottom_up
        self.hidden_geom_groups = hidden_geom_groups
        self._screen: _Screen | None = None

    def draw(self, data: Any) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of an `mjData`, a new array."""
        if self._screen is None:
            fast = self.quality == "fast" or (self.quality == "auto" and draws_in_software())
            self._screen = _Screen(self.model, self.image_size, self.camera, fast, self.hidden_geom_groups)
        # OpenGL's first row is the lowest.
        pixels = self._screen.draw(data)
        if self.flip:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels[::-1] if self.flip == self.bottom_up else pixels)

    def textures_changed(self) -> None:
        """Call this after changing textures (`tex_data`) of the model; the next picture then shows them."""
        if self._screen is not None:
            self._screen.textures_are_stale = True

    def close(self) -> None:
        """Frees the OpenGL context."""
        if self._screen is not None:
            self._screen.free()
            self._screen = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_screen": None}


class _Screen:
    """One OpenGL context, and the scene that MuJoCo draws into it.

    `mujoco.Renderer` is not used: it cannot reload a changed texture, and making a new one takes as long as forty
    pictures.
    """

    def __init__(
        self, model: Any, image_size: int, camera: Any, fast: bool, hidden_geom_groups: tuple[int, ...] = ()
    ) -> None:
        import mujoco

        self._model = model
        self._camera = camera if isinstance(camera, mujoco.MjvCamera) else _fixed_camera(model, camera)
        quality, kept = model.vis.quality, None
        if fast:
            # MuJoCo reads this when the context is made. It is put back, because another renderer may draw the same
            # model in another quality.
            kept = (quality.offsamples, quality.shadowsize)
            quality.offsamples, quality.shadowsize = 0, 0
        # The model limits the size of pictures.
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, image_size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, image_size)
        try:
            with _naming_the_backend():
                self._gl = mujoco.GLContext(image_size, image_size)
                self._gl.make_current()
                self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        finally:
            if kept is not None:
                quality.offsamples, quality.shadowsize = kept
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        if fast:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        for group in hidden_geom_groups:
            self._option.geomgroup[group] = 0
        self._rect = mujoco.MjrRect(0, 0, image_size, image_size)
        self._shape = (image_size, image_size, 3)
        self.textures_are_stale = False
        _free_at_exit(self)

    def draw(self, data: Any) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8, the lowest row first."""
        import mujoco

        self._gl.make_current()
        if self.textures_are_stale:
            for texture in range(self._model.ntex):
                mujoco.mjr_uploadTexture(self._model, self._context, texture)
            self.textures_are_stale = False
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        pixels = np.empty(self._shape, np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._rect, self._context)
        return pixels

    def free(self) -> None:
        if self._gl is None:
            return
        # MuJoCo frees resources of the current context, so this one is made current first.
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._gl = None

    def __del__(self) -> None:
        # There is no context if making it failed.
        if getattr(self, "_context", None) is not None:
            self.free()


_SCREENS: "weakref.WeakSet[_Screen]" = weakref.WeakSet()


def _free_at_exit(screen: _Screen) -> None:
    # This is registered after a context was made, so it runs before EGL is shut down. After that nothing can be
    # freed.
    atexit.unregister(_free_all)
    atexit.register(_free_all)
    _SCREENS.add(screen)


def _free_all() -> None:
    for screen in list(_SCREENS):
        screen.free()


def _fixed_camera(model: Any, name: str) -> Any:
    """The `MjvCamera` of a camera that the model has."""
    import mujoco

    names = [model.camera(number).name for number in range(model.ncam)]
    shown = mujoco.MjvCamera()
    shown.type = mujoco.mjtCamera.mjCAMERA_FIXED
    shown.fixedcamid = names.index(checks.known_name("camera", name, names))
    return shown


_IN_SOFTWARE: bool | None = None


def draws_in_software() -> bool:
    """Whether MuJoCo's OpenGL runs on the CPU; the answer is cached for the process."""
    global _IN_SOFTWARE
    if _IN_SOFTWARE is None:
        _IN_SOFTWARE = any(word in gl_renderer().lower() for word in _SOFTWARE)
    return _IN_SOFTWARE


def gl_renderer() -> str:
    """The name of the OpenGL renderer, e.g. `llvmpipe (LLVM 15.0.6, 256 bits)`."""
    import mujoco

    with _naming_the_backend():
        from OpenGL import GL

        context = mujoco.GLContext(16, 16)
    try:
        context.make_current()
        name = GL.glGetString(GL.GL_RENDERER)
    finally:
        context.free()
    return name.decode() if isinstance(name, bytes) else str(name)
