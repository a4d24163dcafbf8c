"""Pictures of PointMaze from above, with the published look or another."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.factors import Factor, Variation, colour
from envs.mujoco_rendering import MujocoPictures
from envs.pointmaze_model import ORIGIN, WALL_HEIGHT, Maze

SHAPES = ("sphere", "box", "cylinder")

LOOK: Mapping[str, Factor] = {
    "agent.colour": colour((76, 153, 76), "RGB of the ball"),
    "agent.radius": Factor(0.2, 0.1, 0.3, about="drawn radius of the ball, cells; it collides with 0.1"),
    "agent.shape": Factor("sphere", choices=SHAPES, about="drawn shape of the ball; it collides as a sphere"),
    "wall.colour": colour((178, 127, 76), "RGB of the walls"),
    "floor.light_colour": colour((51, 76, 102), "RGB of the lighter squares of the floor"),
    "floor.dark_colour": colour((25, 51, 76), "RGB of the darker squares of the floor"),
    "light.brightness": Factor(1.0, 0.4, 1.3, about="of the lamp at the camera, relative to the published one"),
    "camera.azimuth": Factor(90.0, 45.0, 135.0, about="direction that the camera looks in, degrees around z"),
    "camera.elevation": Factor(-90.0, -90.0, -55.0, about="-90 looks straight down, degrees"),
    "camera.distance": Factor(1.0, 0.75, 1.4, about="relative to the published one; the whole maze stays in sight"),
}

# The published colours are not all whole numbers of 255.
_PUBLISHED_RGB = {"agent.colour": (0.3, 0.6, 0.3), "wall.colour": (0.7, 0.5, 0.3)}


class PointMazeDrawing:
    """Draws the ball in one maze. It changes the look of the model, and nothing that affects the dynamics.

    Args:
        model: The `mjModel` of `pointmaze_model.mjcf`.
        maze: Its maze.
        image_size: Height and width of the pictures [px].
        quality: See `envs.mujoco_rendering`.
    """

    def __init__(self, model: Any, maze: Maze, image_size: int, quality: str) -> None:
        import mujoco

        self._model = model
        # Pictures are drawn from this second `mjData`, so that the episode does not change.
        self._data = mujoco.MjData(model)
        self._maze = maze
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.lookat[:] = (maze.shape[0] + 1) / 2, (maze.shape[1] + 1) / 2, 0.0
        # As published, through mujoco-py: x grows to the right and y downwards.
        self._pictures = MujocoPictures(model, image_size, self._camera, quality, bottom_up=True)
        self._agent, self._goal = model.site("agent").id, model.site("goal").id
        texture = model.texture("floor")
        rows, columns, channels = int(texture.height[0]), int(texture.width[0]), int(texture.nchannel[0])
        begin = int(texture.adr[0])
        self._floor = model.tex_data[begin : begin + rows * columns * channels].reshape(rows, columns, channels)
        self._is_light = self._floor[..., 0] == LOOK["floor.light_colour"].default[0]
        headlight = model.vis.headlight
        self._light = {name: getattr(headlight, name).copy() for name in ("ambient", "diffuse", "specular")}
        self._shapes = {
            "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
            "box": mujoco.mjtGeom.mjGEOM_BOX,
            "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
        }
        self._floor_colours: tuple[Any, Any] | None = None
        self._shown: Variation = {}

    def draw(self, x: float, y: float, goal: tuple[float, float] | None, variation: Variation) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8.

        Args:
            x: Place of the ball along x [m].
            y: Place of the ball along y [m].
            goal: x, y of the goal marker; None: no marker.
            variation: A value for every factor of `LOOK`.
        """
        import mujoco

        if variation != self._shown:
            self._look_like(variation)
            self._shown = dict(variation)
        self._data.qpos[:] = x, y
        mujoco.mj_kinematics(self._model, self._data)
        self._model.site_rgba[self._goal, 3] = 0.0 if goal is None else 1.0
        if goal is not None:
            self._data.site_xpos[self._goal, :2] = goal[0] + ORIGIN, goal[1] + ORIGIN
        return self._pictures.draw(self._data)

    def close(self) -> None:
        """Frees the OpenGL context; the next picture makes a new one."""
        self._pictures.close()

    def _look_like(self, variation: Variation) -> None:
        model = self._model
        model.site_rgba[self._agent, :3] = _rgb("agent.colour", variation)
        model.site_size[self._agent] = variation["agent.radius"]
        model.site_type[self._agent] = self._shapes[variation["agent.shape"]]
        model.material("wall").rgba[:3] = _rgb("wall.colour", variation)
        for name, published in self._light.items():
            getattr(model.vis.headlight, name)[:] = published * variation["light.brightness"]
        self._camera.azimuth = variation["camera.azimuth"]
        self._camera.elevation = variation["camera.elevation"]
        # The camera moves back where its view would cut off a part of the maze.
        self._camera.distance = max(
            self._model.stat.extent * variation["camera.distance"],
            1.02 * least_distance(self._maze, variation["camera.azimuth"], variation["camera.elevation"]),
        )
        colours = variation["floor.light_colour"], variation["floor.dark_colour"]
        if colours != self._floor_colours:
            self._floor[self._is_light], self._floor[~self._is_light] = colours
            self._pictures.textures_changed()
            self._floor_colours = colours


def least_distance(maze: Maze, azimuth_deg: float, elevation_deg: float, view_deg: float = 45.0) -> float:
    """Least distance of a camera from the middle of a maze at which all walls are in the picture; it looks at the
    middle.

    Args:
        maze: The maze.
        azimuth_deg: Direction of view, around z.
        elevation_deg: Elevation of the direction of view; -90 is straight down.
        view_deg: Angle of view from the lowest to the highest row.
    """
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    forward = np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
    up = np.cross(right, forward)
    half_x, half_y = maze.shape[0] / 2, maze.shape[1] / 2
    corners = np.array(
        [[x, y, z] for x in (-half_x, half_x) for y in (-half_y, half_y) for z in (-WALL_HEIGHT, WALL_HEIGHT)]
    )
    # A corner at depth D is seen up to D tan(view / 2) from the middle of the picture.
    off_middle = np.maximum(np.abs(corners @ right), np.abs(corners @ up))
    return float((off_middle / math.tan(math.radians(view_deg) / 2) - corners @ forward).max())


def _rgb(name: str, variation: Variation) -> tuple[float, ...]:
    value = tuple(variation[name])
    return _PUBLISHED_RGB[name] if value == LOOK[name].default else tuple(channel / 255 for channel in value)
