"""Gymnasium environments of jepawm. Importing this registers them; simulators are imported when one is made.

    import gymnasium

    env = gymnasium.make("envs:envs/Wall-v1", image_size=64)
    observation, info = env.reset(seed=0, options={"sim_state": [20.0, 30.0]})

The contract they share is `envs.base.SimStateEnv`.
"""

import gymnasium

ENTRY_POINTS = {
    "envs/Wall-v1": "envs.wall:WallEnv",
    "envs/PushT-v1": "envs.pusht:PushTEnv",
}

for _id, _entry_point in ENTRY_POINTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(id=_id, entry_point=_entry_point)
