"""Episodes that a model collects by planning: what it did in tasks, as episodes to train on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jepawm.evaluation.planner_host import Game, Players
from jepawm.evaluation.protocol import Recording
from jepawm.rollout import EnvPool, Task
from jepawm.types import Episode

# Episodes whose frames are in memory at once.
EPISODES_AT_ONCE = 50


def practised_episodes(
    players: Players,
    game: Game,
    pool: EnvPool,
    tasks: Sequence[Task],
    *,
    first_id: int,
    env_steps_per_frame: int,
    info: dict[str, Any],
) -> Iterator[Episode]:
    """Plays tasks and gives what happened as episodes.

    Args:
        players: What plans and plays.
        game: Its rules.
        pool: Hosts of the environment; they tell the proprio of recorded states.
        tasks: Not solved at their start.
        first_id: Id of the first episode; the others follow.
        env_steps_per_frame: Environment steps from one kept frame to the next.
        info: Facts that each episode carries.

    Yields:
        One episode for each task, in order. An episode is cut to a whole number of kept frames; at least one chunk was
        executed in each.
    """
    for at in range(0, len(tasks), EPISODES_AT_ONCE):
        part = tasks[at : at + EPISODES_AT_ONCE]
        played = players.play(game, part, [task.episode_id for task in part])
        for number, (task, outcome) in enumerate(zip(part, played.outcomes, strict=True), start=first_id + at):
            facts = info | {"solved": outcome.solved}
            if task.variation is not None:
                facts["variation"] = task.variation
            yield _episode(number, played.recordings[task.episode_id], pool, env_steps_per_frame, facts)


def _episode(number: int, recording: Recording, pool: EnvPool, every: int, info: dict[str, Any]) -> Episode:
    actions = np.concatenate([chunk.reshape(-1, chunk.shape[-1]) for chunk in recording.chunks])
    env_steps = len(actions) // every * every
    states = np.asarray(recording.sim_states[: env_steps + 1 : every], dtype=np.float64)
    return Episode(
        episode_id=number,
        pixels=recording.frames[: env_steps + 1 : every],
        actions=np.ascontiguousarray(actions[:env_steps], dtype=np.float32),
        proprio=np.asarray(pool.proprio(list(states)), dtype=np.float32),
        sim_state=states,
        info=info,
    )
