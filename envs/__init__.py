"""Gymnasium environments of jepawm. Importing this package registers them; making one imports its simulator.

    import gymnasium

    env = gymnasium.make("envs:envs/Wall-v1", image_size=64)
    observation, info = env.reset(seed=0, options={"sim_state": [20.0, 30.0]})

The contract they share is `envs.base.SimStateEnv`.
"""

from typing import Any

import gymnasium

ENTRY_POINTS = {
    "envs/Wall-v1": "envs.wall:WallEnv",
    "envs/WallRandom-v1": "envs.wall:WallEnv",
    "envs/PushT-v1": "envs.pusht:PushTEnv",
    "envs/PushObj-v1": "envs.pusht:PushTEnv",
    "envs/PointMaze-v1": "envs.pointmaze:PointMazeEnv",
    "envs/Metaworld-v1": "envs.metaworld:MetaworldEnv",
    "envs/RoboSuite-v1": "envs.robosuite:RoboSuiteEnv",
    "envs/RoboCasa-v1": "envs.robocasa:RoboCasaEnv",
    "envs/Rope-v1": "envs.rope:RopeEnv",
    "envs/Granular-v1": "envs.granular:GranularEnv",
}

# Arguments that belong to an id; arguments of `gymnasium.make` override them.
KWARGS: dict[str, dict[str, Any]] = {
    "envs/WallRandom-v1": {"vary": ("wall.x", "door.y")},
    "envs/PushObj-v1": {"vary": ("block.shape",)},
}

# These replay recordings of the user, so they need an argument.
FROM_RECORDINGS = {"envs/DROID-v1": "envs.droid:DroidEnv"}

for _id, _entry_point in {**ENTRY_POINTS, **FROM_RECORDINGS}.items():
    if _id not in gymnasium.registry:
        gymnasium.register(id=_id, entry_point=_entry_point, kwargs=KWARGS.get(_id, {}))
