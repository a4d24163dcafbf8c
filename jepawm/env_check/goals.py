"""Checks of goals: they differ, they look as in an episode, and success and distance recognise them."""

from collections.abc import Iterator

import numpy as np

from jepawm.env_check.trial import (
    PIXEL_TOLERANCE,
    Answer,
    Check,
    Trial,
    fail,
    note,
    ok,
    pixel_difference,
    same,
    shape_of,
)


def _goals(trial: Trial) -> Iterator[Answer]:
    width = len(trial.bare.sim_state_names)
    pairs = [trial.task(seed) for seed in (0, 0, 1, 2, 3)]
    for state in (state for pair in pairs for state in pair):
        if np.shape(state) != (width,) or not np.isfinite(state).all():
            yield fail(f"sample_start_goal: expected two states of {width} finite numbers, found {state!r}")
            return
    if not np.array_equal(pairs[0], pairs[1]):
        yield fail("sample_start_goal gives other states when the same seed is asked again")
    elif all(np.array_equal(pairs[0][1][trial.exact], goal[trial.exact]) for _, goal in pairs[2:]):
        yield fail("sample_start_goal gives the same goal for every seed")
    else:
        solved = sum(bool(trial.bare.success(start, goal)) for start, goal in pairs[1:])
        yield (fail if solved == 4 else ok)(f"{solved} of 4 tasks are solved at their start")
    _, info = trial.reset(9)
    state = info["sim_state"].copy()
    trial.task(11)
    trial.show(pairs[0][1])
    if not np.array_equal(trial.reset(9)[1]["sim_state"], state):
        yield fail("sampling a goal changes what reset(seed=...) gives")


def _goal_pictures(trial: Trial) -> Iterator[Answer]:
    seed, actions, played = trial.lived(8)
    _, goal = trial.task(1)
    shown = trial.show(goal)
    expected = trial.bare.observation_space["pixels"]
    if not isinstance(shown, np.ndarray) or shown.dtype != np.uint8 or shown.shape != expected.shape:
        yield fail(f"render_state: expected {shape_of(expected)}, as the observations are, found {np.shape(shown)}")
        return
    worst = 0
    for at in (0, len(actions) // 2, len(actions)):
        trial.reset(0)
        worst = max(worst, pixel_difference(trial.show(played.states[at]), played.pixels[at]))
    if worst > PIXEL_TOLERANCE:
        yield fail(
            f"render_state shows a state otherwise than its episode did, by up to {worst} grey levels; a goal must "
            "look as the environment would when it is reached"
        )
    elif not same(played, trial.play(seed, actions, between=lambda: trial.show(goal))):
        yield fail("render_state disturbs the running episode; draw in a second simulation, or put back what it was")
    else:
        yield ok("goals look as in an episode, and drawing them leaves the episode alone")


def _success(trial: Trial) -> Iterator[Answer]:
    bare = trial.bare
    pairs = [trial.task(seed) for seed in range(4)]
    if not all(bool(bare.success(goal, goal)) for _, goal in pairs):
        yield fail("success(goal, goal) is False: an episode that ends exactly at its goal would count as failed")
    else:
        yield ok("a state that is the goal is a success")
    if not getattr(bare, "distance_name", ""):
        yield note("there is no distance_name, so reports have no distance to the goal")
        return
    here = [float(bare.distance(goal, goal)) for _, goal in pairs]
    there = [float(bare.distance(start, goal)) for start, goal in pairs]
    if not np.isfinite(here).all() or min(here) < 0 or np.median(here) >= np.median(there):
        yield fail(f"distance(goal, goal) should be 0, and below distance(start, goal); found {here} and {there}")
    elif not np.isfinite(there).all() or min(there) < 0 or max(there) == 0:
        yield fail(f"distance(start, goal) should be above 0, found {there}")
    else:
        extra = f", solved below {bare.success_distance:.3g}" if trial.is_adapted else ""
        if max(here) > 1e-6:
            yield note(f"distance(goal, goal) is up to {max(here):.3g}: it does not measure the distance alone")
        yield ok(f"{bare.distance_name}: {min(there):.3g} to {max(there):.3g} from start to goal{extra}")


def _proprio(trial: Trial) -> Iterator[Answer]:
    if not callable(getattr(trial.bare, "proprio", None)):
        yield note("there is no proprio(sim_state): models that read proprio cannot be evaluated here")
        return
    _, _, played = trial.lived(9)
    proprio = np.stack([np.asarray(trial.bare.proprio(state)) for state in played.states])
    if proprio.shape != played.proprio.shape or not np.allclose(proprio, played.proprio, rtol=1e-5, atol=1e-6):
        yield fail("proprio(sim_state) is not what the observation had as proprio in that state")
    else:
        yield ok("proprio(sim_state) is the observation's")


GOALS: dict[str, Check] = {
    "goals": _goals,
    "goal pictures": _goal_pictures,
    "success": _success,
    "proprio": _proprio,
}
