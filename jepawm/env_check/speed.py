"""Measures how fast an environment is, with and without pictures."""

import time
from collections.abc import Callable, Iterator

from jepawm.env_check.trial import Answer, Check, Trial, ok

SECONDS = 0.4


def _speed(trial: Trial) -> Iterator[Answer]:
    actions = iter(trial.walk(0, 1_000))
    size = trial.config.image_size
    trial.reset(0)

    def step() -> None:
        if trial.env.step(next(actions))[2]:
            trial.reset(0)

    with_pictures = _per_second(step)
    texts = [f"{with_pictures:.0f} env_steps/s with pictures of {size} px"]
    if callable(getattr(trial.bare, "advance", None)):
        trial.reset(0)
        actions = iter(trial.walk(0, 100_000))
        texts.append(f"{_per_second(lambda: trial.bare.advance(next(actions))):.0f} without")
    _, goal = trial.task(0)
    texts.append(f"{1e3 / _per_second(lambda: trial.show(goal)):.1f} ms for the picture of a goal")
    yield ok(", ".join(texts))


def _per_second(call: Callable[[], object]) -> float:
    call()
    began, count = time.perf_counter(), 0
    while count < 900 and time.perf_counter() - began < SECONDS:
        call()
        count += 1
    return count / (time.perf_counter() - began)


SPEED: dict[str, Check] = {"speed": _speed}
