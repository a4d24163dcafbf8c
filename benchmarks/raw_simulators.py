"""The simulators under our environments, driven without them: what `benchmarks/envs.py` compares with.

Each function gets the start, actions and picture size of the environment, makes the simulator by itself, and returns
seconds spent in env_steps, pictures included where they are asked for.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

Raw = Callable[[np.ndarray, Sequence[np.ndarray], int, bool, bool], float]


def _renderer(model: object, image_size: int, fast: bool) -> object:
    import mujoco

    quality = model.vis.quality  # type: ignore[attr-defined]
    if fast:
        quality.offsamples = quality.shadowsize = 0
    renderer = mujoco.Renderer(model, image_size, image_size)
    if fast:
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return renderer


def pointmaze(start: np.ndarray, actions: Sequence[np.ndarray], image_size: int, render: bool, fast: bool) -> float:
    """`mj_step` five times an action, and `mujoco.Renderer`."""
    import mujoco

    from envs.pointmaze_model import mjcf, parse_maze

    model = mujoco.MjModel.from_xml_string(mjcf(parse_maze("umaze")))
    data = mujoco.MjData(model)
    renderer = _renderer(model, image_size, fast)
    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation, camera.distance = 90, -90, model.stat.extent
    camera.lookat[:] = 3, 3, 0
    data.qpos[:], data.qvel[:] = start[:2], start[2:]
    began = time.perf_counter()
    for action in actions:
        data.ctrl[:] = action
        mujoco.mj_step(model, data, nstep=5)
        if render:
            renderer.update_scene(data, camera)  # type: ignore[attr-defined]
            renderer.render()  # type: ignore[attr-defined]
    spent = time.perf_counter() - began
    renderer.close()  # type: ignore[attr-defined]
    return spent


def metaworld(start: np.ndarray, actions: Sequence[np.ndarray], image_size: int, render: bool, fast: bool) -> float:
    """Metaworld's own environment as its users make it, and `mujoco.Renderer` at the same camera.

    It has no reset to a state, so it plays the same actions from a start of its own.
    """
    import metaworld as package

    benchmark = package.MT1("reach-v3", seed=0)
    env = benchmark.train_classes["reach-v3"]()
    env.set_task(benchmark.train_tasks[0])
    env.reset()
    renderer = _renderer(env.model, image_size, fast)
    began = time.perf_counter()
    for action in actions:
        env.step(action)
        if render:
            renderer.update_scene(env.data, "corner2")  # type: ignore[attr-defined]
            renderer.render()  # type: ignore[attr-defined]
    spent = time.perf_counter() - began
    renderer.close()  # type: ignore[attr-defined]
    env.close()
    return spent


def robosuite(start: np.ndarray, actions: Sequence[np.ndarray], image_size: int, render: bool, fast: bool) -> float:
    """`robosuite.make("Lift")` with a Panda, as its users make it: camera observations come with each step."""
    import robosuite as package

    env = package.make(
        "Lift",
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=render,
        use_camera_obs=render,
        camera_names="frontview",
        camera_heights=image_size,
        camera_widths=image_size,
        control_freq=20,
        ignore_done=True,
    )
    env.reset()
    began = time.perf_counter()
    for action in actions:
        env.step(np.asarray(action, np.float64))
    spent = time.perf_counter() - began
    env.close()
    return spent


RAW: dict[str, Raw] = {
    "envs/PointMaze-v1": pointmaze,
    "envs/Metaworld-v1": metaworld,
    "envs/RoboSuite-v1": robosuite,
}
