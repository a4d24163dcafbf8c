"""Pictures of MuJoCo worlds, without a screen: one renderer for every MuJoCo environment here.

Two qualities. `faithful` draws what the model asks for: shadows, reflections, multisampling. `fast` leaves those three
out, which costs nothing else and draws ten and more times as fast where no GPU does it. `auto` is `faithful` on a GPU
and `fast` on Mesa's software renderer.
"""

import os
import sys
from typing import Any, Literal

import numpy as np

from envs import checks

Quality = Literal["auto", "fast", "faithful"]
QUALITIES = ("auto", "fast", "faithful")

# How OpenGL names itself where the CPU draws.
_SOFTWARE = ("llvmpipe", "softpipe", "swiftshader", "software")


def prepare_backend() -> str:
    """Chooses how MuJoCo draws without a screen, before it is imported; what `$MUJOCO_GL` says is kept.

    Returns:
        `egl`, `osmesa`, `glfw`, or `cgl` and the like on systems without a choice.
    """
    if "MUJOCO_GL" not in os.environ and sys.platform.startswith("linux") and "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = "egl"
    return os.environ.get("MUJOCO_GL", "default")


def import_mujoco(extra: str) -> Any:
    """Imports MuJoCo so that it can draw without a screen, or says which extra brings it.

    Raises:
        ImportError: It is not installed.
    """
    prepare_backend()
    return checks.require("mujoco", f"jepawm[{extra}]")


class MujocoPictures:
    """Draws a MuJoCo model at one size from one camera. Made at the first picture; a copy or pickle makes its own.

    Args:
        model: An `mjModel`.
        image_size: Height and width of the pictures [px].
        camera: Name of a camera of the model, or an `MjvCamera`.
        quality: See the module.
        flip: Turn pictures upside down and left to right, for cameras that are mounted so.

    Raises:
        ValueError: An unknown quality.
    """

    def __init__(self, model: Any, image_size: int, camera: Any, quality: str = "auto", *, flip: bool = False) -> None:
        checks.known_name("quality", quality, QUALITIES)
        self.model = model
        self.image_size = image_size
        self.camera = camera
        self.quality = quality
        self.flip = flip
        self._renderer: Any = None
        self._fast = False

    def draw(self, data: Any) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of an `mjData`, an array of its own."""
        renderer = self._open() if self._renderer is None else self._renderer
        renderer.update_scene(data, self.camera)
        if self._fast:
            import mujoco

            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        pixels: np.ndarray = renderer.render()
        return pixels[::-1, ::-1].copy() if self.flip else pixels.copy()

    def close(self) -> None:
        """Frees the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_renderer": None}

    def _open(self) -> Any:
        import mujoco

        self._fast = self.quality == "fast" or (self.quality == "auto" and draws_in_software())
        quality, kept = self.model.vis.quality, None
        if self._fast:
            # Read when the context is made, and put back: the model may be shown in another quality as well.
            kept = (quality.offsamples, quality.shadowsize)
            quality.offsamples, quality.shadowsize = 0, 0
        # The model says how large a picture may be.
        self.model.vis.global_.offwidth = max(self.model.vis.global_.offwidth, self.image_size)
        self.model.vis.global_.offheight = max(self.model.vis.global_.offheight, self.image_size)
        try:
            self._renderer = mujoco.Renderer(self.model, self.image_size, self.image_size)
        finally:
            if kept is not None:
                quality.offsamples, quality.shadowsize = kept
        return self._renderer


_IN_SOFTWARE: bool | None = None


def draws_in_software() -> bool:
    """Whether MuJoCo's OpenGL runs on the CPU; asked once per process."""
    global _IN_SOFTWARE
    if _IN_SOFTWARE is None:
        _IN_SOFTWARE = any(word in gl_renderer().lower() for word in _SOFTWARE)
    return _IN_SOFTWARE


def gl_renderer() -> str:
    """The name OpenGL gives to what draws, e.g. `llvmpipe (LLVM 15.0.6, 256 bits)`."""
    import mujoco
    from OpenGL import GL

    context = mujoco.GLContext(16, 16)
    try:
        context.make_current()
        name = GL.glGetString(GL.GL_RENDERER)
    finally:
        context.free()
    return name.decode() if isinstance(name, bytes) else str(name)
