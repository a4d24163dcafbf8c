"""Checks of episodes: pictures, seeding, resets to a state, actions, ends, several instances."""

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jepawm.env_check.trial import PIXEL_TOLERANCE, STEPS, Answer, Check, Trial, fail, note, ok, pixel_difference, same

# Largest accepted difference of states, as a share of how far states move in an episode. Differences from a solver's
# memory, or from a substep that settles a state after it is set, are smaller; those from a missing velocity are larger.
NEAR = 0.02


def _pictures(trial: Trial) -> Iterator[Answer]:
    _, _, played = trial.lived(0)
    flat = [index for index, frame in enumerate(played.pixels) if (frame == frame[0, 0]).all()]
    if flat:
        yield fail(f"frame {flat[0]} is all of one colour {played.pixels[flat[0], 0, 0].tolist()}: nothing is drawn")
    elif (played.pixels == played.pixels[0]).all():
        yield fail(f"{len(played.pixels)} frames of an episode are all the same, though its state moves")
    else:
        changed = (played.pixels != played.pixels[0]).any(axis=(0, 3)).mean()
        yield ok(f"more than one colour, and {100 * changed:.1f} % of the pixels change in an episode")


def _arrays(trial: Trial) -> Iterator[Answer]:
    seen, info = trial.reset(0)
    returned = {"pixels": seen["pixels"], "proprio": seen["proprio"], "info['sim_state']": info["sim_state"]}
    kept = {name: array.copy() for name, array in returned.items()}
    for action in trial.walk(0, 3):
        trial.env.step(action)
    changed = [name for name, array in returned.items() if not np.array_equal(array, kept[name])]
    if changed:
        yield fail(f"{', '.join(changed)} of an earlier step changed with a later one; return a copy")
    else:
        yield ok("what is returned stays as it was")


def _seeding(trial: Trial) -> Iterator[Answer]:
    actions = trial.walk(0, 8)
    before = _global_state()
    try:
        runs = []
        for shaken, seed in ((1, 3), (1, 3), (2, 3), (2, 4)):
            np.random.seed(shaken)
            random.seed(shaken)
            runs.append(trial.play(seed, actions))
            after = _global_state()
        np.random.seed(2)
        random.seed(2)
        touches = pickle.dumps(after) != pickle.dumps(_global_state())
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])
    first, again, shaken_run, other = runs
    if not same(first, again):
        yield fail(
            "two episodes with equal seeds and actions differ; draw everything from self.np_random, which "
            "super().reset(seed=seed) seeds"
        )
    elif not same(first, shaken_run):
        yield fail("episodes depend on the global random state of numpy or Python; draw from self.np_random")
    elif np.array_equal(first.truth[0], other.truth[0]):
        yield fail("different seeds give the same start; draw it from self.np_random in reset")
    else:
        yield ok("equal seeds give equal episodes, different ones different starts")
    if touches:
        yield note("numpy's or Python's global random state is used; two instances in a process share it")


def _global_state() -> tuple[Any, Any]:
    return np.random.get_state(), random.getstate()


def _fresh(trial: Trial) -> Iterator[Answer]:
    seed, actions, first = trial.lived(5)
    trial.play(6, trial.walk(6))
    if same(first, trial.play(seed, actions)):
        yield ok("an episode does not depend on the one before")
    else:
        yield fail("an episode depends on the one before it: reset must bring back everything (caches, timers, sums)")


def _reset_to_state(trial: Trial) -> Iterator[Answer]:
    _, actions, played = trial.lived(7)
    at = len(actions) // 2
    state, rest = played.states[at], actions[at:]
    first = trial.play(0, rest, state)
    moved = max(float(np.abs(played.truth - played.truth[0]).max()), 1e-12)
    apart = float(np.abs(first.truth[0] - played.truth[at]).max()) / moved
    if apart > NEAR:
        yield fail(
            f"reset(options={{'sim_state': s}}) led to another state, {_percent(apart)} of how far the states moved "
            "away; does the order in which its parts are set matter?"
        )
        return
    difference = pixel_difference(first.pixels[0], played.pixels[at])
    if difference > PIXEL_TOLERANCE:
        yield fail(
            f"the picture after a reset to a state differs from the one in its episode, by up to {difference} grey "
            "levels; sim_state must hold all that is seen"
        )
        return
    trial.play(6, trial.walk(6))
    if not same(first, trial.play(1, rest, state)):
        yield fail("two episodes from the same state with the same actions differ; the state must fix what follows")
        return
    count = min(len(first.truth), len(played.truth) - at)
    later = float(np.abs(first.truth[:count] - played.truth[at : at + count]).max()) / moved
    if later > NEAR:
        yield fail(
            f"after a reset to a state it goes on otherwise than its episode did, by {_percent(later)} of how far the "
            "states moved; does sim_state leave out a velocity, or a timer?"
        )
        return
    yield ok("an episode can start from a state in the middle of another")
    if max(apart, later) > 1e-9:
        yield note(
            f"not to the bit: it starts {_percent(apart)} of how far the states moved away from the state, and goes on "
            f"{_percent(later)} away from its episode"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _advance(trial: Trial) -> Iterator[Answer]:
    advance = getattr(trial.bare, "advance", None)
    if advance is None:
        yield note("there is no advance(action): every env_step draws a picture, although most pictures are not used")
        return
    seed, actions, played = trial.lived(10)
    trial.reset(seed)
    states = np.stack([np.asarray(advance(action)) for action in actions])
    if not np.array_equal(states, played.states[1:]):
        yield fail("advance(action) leads to other states than step(action)")
    else:
        yield ok("advance(action) is a step without a picture")


def _actions(trial: Trial) -> Iterator[Answer]:
    space = trial.bare.action_space
    if np.array_equal(trial.play(0, trial.walk(1)).truth, trial.play(0, trial.walk(2)).truth):
        yield fail("other actions lead to the same states: actions change nothing")
        return
    for name, corner in (("low", space.low), ("high", space.high)):
        ends = trial.play(0, [corner] * 5)
        if not np.isfinite(ends.states).all():
            yield fail(f"at the {name} end of its bounds the state is not finite any more")
            return
    far = space.high + (space.high - space.low)
    try:
        beyond = trial.play(0, [far])
    except Exception as error:  # noqa: BLE001 - reported, and no failure
        yield ok(f"they matter; beyond the bounds they are refused ({type(error).__name__})")
        return
    clipped = np.array_equal(beyond.truth, trial.play(0, [space.high]).truth)
    yield ok(f"they matter; beyond the bounds they are {'clipped' if clipped else 'taken as they are'}")


def _second_instance(trial: Trial) -> Iterator[Answer]:
    seed, actions, played = trial.lived(12)
    other, others = trial.another(), iter(trial.walk(13, 3 * STEPS))
    trial.reset(13, env=other)

    def disturb() -> None:
        if other.step(next(others))[2]:
            trial.reset(13, env=other)

    disturbed = trial.play(seed, actions, between=disturb)
    if not np.array_equal(disturbed.truth, played.truth):
        yield fail("a second instance in the same process changes the states of the first; share nothing by class")
    elif pixel_difference(disturbed.pixels, played.pixels) > PIXEL_TOLERANCE:
        yield fail("a second instance in the same process changes the pictures of the first")
    elif not same(trial.play(seed, actions, env=trial.another()), played):
        yield fail("another instance plays the same episode otherwise; workers would disagree")
    else:
        yield ok("instances in one process do not disturb each other, and agree")


def _ends(trial: Trial) -> Iterator[Answer]:
    lengths = []
    for seed in range(4):
        played = trial.play(seed, trial.walk(seed, 50))
        lengths += [len(played.states) - 1] if played.ended else []
    if lengths:
        yield note(
            f"{len(lengths)} of 4 random episodes ended by themselves, after {min(lengths)} to {max(lengths)} "
            "env_steps: collected episodes end there, and in evaluation nothing happens any more"
        )
    else:
        yield ok("random episodes of 50 env_steps do not end by themselves")


def _copies(trial: Trial) -> Iterator[Answer]:
    ways: dict[str, Callable[[Any], Any]] = {
        "pickle": pickle.dumps,
        "copy": copy.deepcopy,
    }
    cannot = []
    for name, way in ways.items():
        try:
            way(trial.env)
        except Exception as error:  # noqa: BLE001 - reported, and no failure
            cannot.append(f"{name} ({type(error).__name__})")
    if cannot:
        yield note(f"cannot be duplicated by {' or '.join(cannot)}; not needed, every process makes its own")
    else:
        yield ok("can be pickled and copied")


BEHAVIOUR: dict[str, Check] = {
    "pictures": _pictures,
    "arrays": _arrays,
    "seeding": _seeding,
    "fresh resets": _fresh,
    "reset to a state": _reset_to_state,
    "advance": _advance,
    "actions": _actions,
    "second instance": _second_instance,
    "ends": _ends,
    "duplicates": _copies,
}
