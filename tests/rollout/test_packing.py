"""What travels between hosts and planners comes back as it was."""

import numpy as np
import pytest

from jepawm.rollout import Executed, Observed
from jepawm.rollout.packing import pack, pack_first, unpack, unpack_first

FRAMES, CHUNKS, SIDE = 5, 3, 16


def executed(random: np.random.Generator, recorded: bool) -> Executed:
    # Noise, which does not shrink, and one colour, which shrinks to nothing.
    pixels = random.integers(0, 256, (CHUNKS, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[-1] = 7
    every = random.integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8) if recorded else None
    return Executed(
        pixels=pixels,
        proprio=random.normal(size=(CHUNKS, 4)).astype(np.float32),
        sim_states=random.normal(size=(FRAMES, 6)),
        solved=random.random(FRAMES) < 0.5,
        recorded=every,
    )


def assert_equal(found: Executed | Observed, sent: Executed | Observed) -> None:
    assert type(found) is type(sent)
    for name, value in vars(sent).items():
        if value is None:
            assert getattr(found, name) is None
        else:
            np.testing.assert_array_equal(getattr(found, name), value)
            assert getattr(found, name).dtype == value.dtype


@pytest.mark.parametrize("order", ["every other", "rows from the bottom"])
def test_results_come_back(order: str) -> None:
    random = np.random.default_rng(0)
    sent = [executed(random, recorded=number == 1) for number in range(3)]
    if order == "rows from the bottom":
        # As MuJoCo draws: not one block of memory.
        sent = [Executed(**{**vars(each), "pixels": each.pixels[:, ::-1]}) for each in sent]
    found = unpack(pack(sent))
    assert len(found) == 3
    for one, other in zip(found, sent, strict=True):
        assert_equal(one, other)
        # A planner may write into what it gets.
        assert one.pixels.flags.writeable


def test_first_observations_come_back() -> None:
    random = np.random.default_rng(1)
    sent = [
        Observed(
            random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
            random.normal(size=4).astype(np.float32),
            random.normal(size=6),
        )
        for _ in range(4)
    ]
    found = unpack_first(pack_first(sent))
    assert len(found) == 4
    for one, other in zip(found, sent, strict=True):
        assert_equal(one, other)


def test_rendered_frames_become_small() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[20:40, 20:40] = (200, 30, 30)
    packed = pack_first([Observed(frame, np.zeros(1, np.float32), np.zeros(1))])
    assert len(packed.frames[0]) * 20 < frame.nbytes
