"""Files of actions made by hand: what the numbers mean, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from jepawm.data.importers.poses import ACTION as POSE
from jepawm.errors import ConfigError
from jepawm.evaluation.branches import Branches, read_branches
from jepawm.types import ActionSpec

FLAT = ActionSpec(2, (-1.0, 0.5), (1.0, 3.0), max_norm=2.0, names=("x", "height"), units="m")
RECORDED = np.arange(16, dtype=np.float32).reshape(8, 2)


def read(tmp_path: Path, text: str, action: ActionSpec = FLAT, *, recorded: np.ndarray | None = RECORDED) -> Branches:
    path = tmp_path / "branches.yaml"
    path.write_text(text)
    return read_branches(path, action, 2, recorded)


def test_numbers_ramps_lists_and_parts_become_rows_of_env_steps(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
horizon: 3
branches:
  rest: {}
  constant: {x: 0.25}
  ramp: {x: {ramp: [0, 1]}, height: 1}
  parts:
    - {chunks: 1, x: [0.5, -0.5]}
    - {chunks: 2, height: {per_chunk: [1, 1.5]}}
  recorded: recorded
""",
    )
    assert (found.names, found.horizon) == (("rest", "constant", "ramp", "parts", "recorded"), 3)
    assert found.actions_BSa.dtype == np.float32
    # Where nothing is said, an action is 0, or the bound next to it.
    rest = [[0, 0.5]] * 6
    expected = [
        rest,
        [[0.25, 0.5]] * 6,
        [[x, 1] for x in np.linspace(0, 1, 6)],
        [[0.5, 0.5], [-0.5, 0.5], [0, 1], [0, 1], [0, 1.5], [0, 1.5]],
        RECORDED[:6],
    ]
    np.testing.assert_array_equal(found.actions_BSa, np.asarray(expected, np.float32))
    np.testing.assert_array_equal(found.chunks(2)[4], RECORDED[:6].reshape(3, 4))


def test_a_change_of_pose_is_named_by_its_axes(tmp_path: Path) -> None:
    text = (
        "{horizon: 1, branches: {open and lift: {gripper: -0.75, z: 0.05}, close and turn: {dgripper: 0.75, yaw: 0.1}}}"
    )
    found = read(tmp_path, text, POSE)
    np.testing.assert_allclose(found.actions_BSa[0], [[0, 0, 0.05, 0, 0, 0, -0.75]] * 2)
    np.testing.assert_allclose(found.actions_BSa[1], [[0, 0, 0, 0, 0, 0.1, 0.75]] * 2, rtol=1e-6)


def test_the_file_in_the_docs_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    (block,) = re.findall(r"```text\n(horizon: .*?)```", page, re.DOTALL)
    found = read(tmp_path, block, POSE, recorded=np.zeros((8, 7), np.float32))
    assert found.names[1:3] == ("open gripper and lift", "close and lift")
    np.testing.assert_allclose(found.actions_BSa[2, 0], [0, 0, 0.05, 0, 0, 0, 0.75], rtol=1e-6)
    np.testing.assert_allclose(found.actions_BSa[4, :, 0], [0.05, 0.05, 0.1, 0.1, -0.1, -0.1, -0.1, -0.1])


def test_what_is_not_named_may_be_as_recorded_and_beyond_its_bounds(tmp_path: Path) -> None:
    # Recorded actions may exceed the bounds; the named number beside them may not.
    wild = np.tile(np.array([[9.0, 4.0]], np.float32), (4, 1))
    text = "{horizon: 2, unnamed: recorded, branches: {a: {x: 0.5}}}"
    unlimited = ActionSpec(2, FLAT.low, FLAT.high, names=FLAT.names)
    np.testing.assert_array_equal(read(tmp_path, text, unlimited, recorded=wild).actions_BSa[0], [[0.5, 4]] * 4)
    with pytest.raises(ConfigError, match=r"the action of env_step 0 is 4\.03.* long; the largest norm is 2"):
        read(tmp_path, text, recorded=wild)
    np.testing.assert_array_equal(
        read(tmp_path, "{horizon: 1, beyond_bounds: allow, branches: {a: {x: -7}}}").actions_BSa[0], [[-7, 0.5]] * 2
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a mapping of horizon, unnamed, beyond_bounds, branches, found list"),
        ("{horizon: 2, branch: {}}", r"unknown key 'branch' \(did you mean 'branches'\?\)"),
        ("{branches: {a: {}}}", "horizon must be the number of model steps of every branch, found None"),
        ("{horizon: 2, branches: {}}", "branches must be a mapping of names to actions"),
        ("{horizon: 2, unnamed: mean, branches: {a: {}}}", "unnamed must be rest or recorded, found 'mean'"),
        ("{horizon: 2, branches: {a: 3}}", r"branches\['a'\] must be 'recorded', a mapping .* found 3"),
        ("{horizon: 2, branches: {a: {hight: 1}}}", r"no component 'hight' \(did you mean 'height'\?\)"),
        ("{horizon: 2, branches: {a: {x: [0, 1]}}}", r"branches\['a'\].x \(.* 2 chunks x 2\): expected 4 numbers"),
        ("{horizon: 2, branches: {a: {x: {ramp: [1]}}}}", r"x.ramp .*: expected 2 numbers, found \[1\]"),
        ("{horizon: 2, branches: {a: {x: {per_chunk: [1]}}}}", "x.per_chunk: expected 2 numbers"),
        ("{horizon: 2, branches: {a: {x: fast}}}", "must be a number, a list, .* found 'fast'"),
        ("{horizon: 2, branches: {a: {x: .nan}}}", "must be a number, a list, .* found nan"),
        ("{horizon: 2, branches: {a: {x: 1.5}}}", r"x is 1.5 at env_step 0; its bounds are -1 to 1 \(m\)"),
        ("{horizon: 2, branches: {a: {x: 1, height: 2}}}", "is 2.23.* long; the largest norm is 2"),
        ("{horizon: 2, branches: {a: [{chunks: 1, x: 0}]}}", "its parts have 1 chunks together, horizon is 2"),
        ("{horizon: 2, branches: {a: [{x: 0}]}}", r"\['a'\]\[0\].chunks must be the number .* found None after 0"),
        ("{horizon: 2, branches: {a: [{chunks: 3}]}}", "all parts have 2 together .* found 3 after 0"),
        (
            "{horizon: 5, branches: {a: recorded}}",
            "takes recorded actions of 10 env_steps .* there are 8 from the present",
        ),
    ],
)
def test_a_wrong_file_is_answered_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_picture_has_no_recorded_actions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are 0 from the present on"):
        read(tmp_path, "{horizon: 1, branches: {a: recorded}}", recorded=None)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_branches(tmp_path / "nothing.yaml", FLAT, 2)
