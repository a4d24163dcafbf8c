"""`jepawm counterfactual`: branches of hand-made actions, imagined from one moment."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import split_of, trained_spec
from imagining import FRAMESKIP, model_of
from PIL import Image
from torch import Tensor

from jepawm.checkpoints.head_folder import HeadSpec, save_head
from jepawm.checkpoints.model_folder import (
    build_world_model,
    load_world_model,
    save_world_model,
    weights_sha256,
)
from jepawm.cli.main import main
from jepawm.config import DataConfig, RunConfig
from jepawm.config.counterfactual import CounterfactualJob
from jepawm.config.head import HeadConfig
from jepawm.data import EpisodeDataset
from jepawm.data.importers.poses import ACTION as POSE
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.branches import Branches, read_branches
from jepawm.evaluation.counterfactual import (
    Counterfactual,
    films,
    imagine_branches,
    moment_of_clip,
    moment_of_picture,
)
from jepawm.heads import HeadShape
from jepawm.heads.registry import build_head
from jepawm.latent import Latent
from jepawm.world_model import WorldModel

YAML = """
horizon: 3
branches:
  recorded: recorded
  rest: {}
  up & <left>: {x: -1, y: {ramp: [0, 1]}}
"""


@pytest.fixture(scope="module")
def model(wall_dataset: EpisodeDataset) -> WorldModel:
    return model_of(wall_dataset)


def branches(actions_BSa: np.ndarray) -> Branches:
    names = tuple(f"branch {number}" for number in range(len(actions_BSa)))
    return Branches(names, actions_BSa.astype(np.float32), actions_BSa.shape[1] // FRAMESKIP)


@torch.no_grad()
def test_a_branch_of_recorded_actions_is_the_models_own_unroll(wall_dataset: EpisodeDataset, model: WorldModel) -> None:
    moment = moment_of_clip(model, wall_dataset, 3, 12, context_frames=2)
    episode = wall_dataset.read_episode(3)
    np.testing.assert_array_equal(moment.pixels, episode.pixels[[7, 12]])
    np.testing.assert_array_equal(moment.later_pixels, episode.pixels[17::FRAMESKIP])
    np.testing.assert_array_equal(moment.past_actions, episode.actions[7:12])
    assert moment.later_actions is not None
    np.testing.assert_array_equal(moment.later_actions, episode.actions[12 : 12 + 7 * FRAMESKIP])
    recorded = moment.later_actions[: 3 * FRAMESKIP]
    others = np.stack([recorded, np.zeros_like(recorded), recorded[::-1]])
    found = imagine_branches(model, moment, branches(others))
    context = model.encode(
        torch.from_numpy(episode.pixels[[7, 12]]).movedim(-1, 1)[None], torch.from_numpy(episode.proprio[[7, 12]])[None]
    )
    past = torch.from_numpy(episode.actions[7:12]).reshape(1, 1, -1)
    for number, actions in enumerate(others):
        chunks = torch.from_numpy(actions.copy()).reshape(1, 3, -1)
        alone = model.unroll(context, chunks, past).visual[0]
        torch.testing.assert_close(found.visual_BTPD[number, 1:], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.visual_BTPD[number, 0], context.visual[0, 1])
    # Actions matter, and distances say so: equal branches are 0 apart, others are not.
    again = imagine_branches(model, moment, branches(others[[0, 0, 1]]))
    same, other, _ = again.distances(["a", "b", "c"])
    assert (same.first, same.second) == ("a", "b")
    assert max(same.per_model_step) < 1e-10
    assert other.per_model_step[0] == 0
    assert min(other.per_model_step[1:]) > 1e-6
    expected = (again.visual_BTPD[0] - again.visual_BTPD[2]).square().mean(dim=(1, 2))
    np.testing.assert_allclose(other.per_model_step, expected, rtol=1e-5)


@torch.no_grad()
def test_what_was_recorded_is_compared_as_far_as_it_goes(wall_dataset: EpisodeDataset, model: WorldModel) -> None:
    # Of 51 frames, two chunks are left after frame 39.
    moment = moment_of_clip(model, wall_dataset, 3, 39)
    long = branches(np.zeros((1, 4 * FRAMESKIP, 2)))
    found = imagine_branches(model, moment, long)
    branch = found.branch(0, "rest", long.actions_BSa[0])
    assert (len(branch.from_present), len(branch.from_recording)) == (5, 3)
    assert branch.from_present[0] == branch.from_recording[0] == 0
    assert branch.from_recording[1] > 0

    class Levels:
        about = ""

        def of(self, visual_MPD: torch.Tensor) -> np.ndarray:
            return np.full((len(visual_MPD), 64, 64, 3), 7, np.uint8)

    shown = films(found, moment, long, Levels())
    assert list(shown) == ["what was recorded", "branch 0"]
    true = wall_dataset.read_episode(3).pixels[[39, 44, 49, 49, 49]]
    np.testing.assert_array_equal(shown["what was recorded"], true)


class Arm(WorldModel):
    """Its latent is where the hand is (x, y, z) and how far the gripper is closed; actions change just that."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.image_size, self.frameskip, self.uses_proprio, self.context_window = 8, 1, False, 1
        self.action_mean, self.action_dim = torch.zeros(7), 7

    def encode(self, pixels_BTCYX: Tensor, proprio_BTR: Tensor | None = None) -> Latent:
        return Latent(torch.zeros(*pixels_BTCYX.shape[:2], 1, 4))

    def unroll(self, context: Latent, actions_BHA: Tensor, past_actions_BLA: Tensor | None = None) -> Latent:
        moved = actions_BHA[..., [0, 1, 2, 6]].cumsum(dim=1)
        return Latent(context.visual[:, -1:] + moved[:, :, None])


def test_actions_of_a_robot_arm_lead_apart_where_they_differ(tmp_path: Path) -> None:
    text = "{horizon: 3, branches: {open and lift: {gripper: -0.2, z: 0.05}, close and lift: {gripper: 0.2, z: 0.05}}}"
    (tmp_path / "a.yaml").write_text(text)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "seen.png")
    arm = Arm()
    moment = moment_of_picture(arm, str(tmp_path / "seen.png"))
    read = read_branches(tmp_path / "a.yaml", POSE, 1, moment.later_actions)
    found = imagine_branches(arm, moment, read)
    (apart,) = found.distances(read.names)
    steps = np.arange(4)
    # Four numbers of the latent, of which the gripper's alone differs: by 0.4 a model step.
    np.testing.assert_allclose(apart.per_model_step, (0.4 * steps) ** 2 / 4, rtol=1e-5)
    branch = found.branch(0, "open and lift", read.actions_BSa[0])
    np.testing.assert_allclose(branch.from_present, ((0.05 * steps) ** 2 + (0.2 * steps) ** 2) / 4, rtol=1e-5)
    assert branch.from_recording == []
    assert branch.actions == [[0, 0, 0.05, 0, 0, 0, -0.2]] * 3


def test_moments_that_there_are_not_are_refused(
    wall_dataset: EpisodeDataset, model: WorldModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="looks back 2 frames at most"):
        moment_of_clip(model, wall_dataset, 3, 40, context_frames=3)
    with pytest.raises(
        DataError, match=r"episode 3 has frames 0 to 50; frame 4 with 2 frames of context, 5 apart, .* -1"
    ):
        moment_of_clip(model, wall_dataset, 3, 4, context_frames=2)
    with pytest.raises(DataError, match="frame 51"):
        moment_of_clip(model, wall_dataset, 3, 51)
    Image.fromarray(np.zeros((80, 90, 3), np.uint8)).save(tmp_path / "seen.png")
    with pytest.raises(DataError, match=r"reads proprio of 2 numbers, .* \[1, 2\]; found no proprio"):
        moment_of_picture(model, str(tmp_path / "seen.png"))
    np.savez(tmp_path / "seen.npz", pixels=np.zeros((80, 90, 3), np.uint8), proprio=np.array([3.0, 4.0]))
    moment = moment_of_picture(model, str(tmp_path / "seen.npz"))
    assert (moment.pixels.shape, moment.later_actions) == ((1, 64, 64, 3), None)
    assert moment.proprio is not None
    np.testing.assert_array_equal(moment.proprio, [[3, 4]])
    with pytest.raises(DataError, match=r"holds 1 picture\(s\), numbered from 0; there is no --frame 1"):
        moment_of_picture(model, str(tmp_path / "seen.npz"), 1)
    with pytest.raises(ConfigError, match="leave out --episode"):
        CounterfactualJob(observation="seen.png", episode=1)
    with pytest.raises(ConfigError, match="leave one of them out"):
        CounterfactualJob(nearest=True, head="image")
    with pytest.raises(ConfigError, match="--context-frames above 1 needs the actions between"):
        CounterfactualJob(observation="seen.png", context_frames=2)


def test_the_command_writes_a_page_its_numbers_and_an_animation(
    wall_dataset: EpisodeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(device="cpu", data=DataConfig(source="dataset", path=str(wall_dataset.path)))
    spec = trained_spec(config, wall_dataset)
    model_dir = str(tmp_path / "run" / "model")
    save_world_model(model_dir, build_world_model(spec), spec)
    (tmp_path / "a.yaml").write_text(YAML)
    words = ["counterfactual", "--model", str(tmp_path / "run"), "--actions", str(tmp_path / "a.yaml")]
    out = tmp_path / "out"
    assert main([*words, "--output", str(out), "--nearest-frames", "32"]) == 0
    printed = capsys.readouterr().out
    assert "nearest of 32 training frames" in printed
    data = json.loads((out / "counterfactual.json").read_text())
    found = Counterfactual.from_dict(data)
    assert found.to_dict() == {**data, "branches": tuple(data["branches"]), "distances": tuple(data["distances"])}
    first = int(split_of(config, wall_dataset).held_out[0])
    assert found.moment == f"{wall_dataset.path}, episode {first}, frame 0"
    assert [branch.name for branch in found.branches] == ["recorded", "rest", "up & <left>"]
    np.testing.assert_array_equal(
        np.float32(found.branches[0].actions), wall_dataset.read_column("actions", first)[:15]
    )
    assert [len(pair.per_model_step) for pair in found.distances] == [4, 4, 4]
    with Image.open(out / "counterfactual.gif") as gif:
        assert gif.n_frames == 4
    page = (out / "counterfactual.html").read_text("utf-8")
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]+)""", page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "up &amp; &lt;left&gt;" in page
    assert "<left>" not in page
    assert not (out / "counterfactual.mp4").exists()
    # A head that draws takes the place of nearest frames.
    width = load_world_model(model_dir)[0].latent_dim
    shape = HeadShape((1, 1), width, proprio_dim=0, image_size=64, chunk_dim=10, state_names=())
    head = HeadConfig(name="transposed_conv", depth=1)
    save_head(model_dir, "drawn", build_head(head, shape), HeadSpec(head, shape, weights_sha256(model_dir)))
    assert main([*words, "--output", str(out), "--episode", "2", "--frame", "5"]) == 0
    assert "drawn by the head drawn" in capsys.readouterr().out
    assert main([*words, "--output", str(out), "--nearest", "--nearest-frames", "8"]) == 0
    assert "nearest of 8 training frames" in capsys.readouterr().out
    assert main([*words, "--head", "image"]) == 2
    assert "no head 'image'" in capsys.readouterr().err
    assert main(["counterfactual", "--model", str(tmp_path / "run")]) == 2
    assert main([*words, "--observation", str(tmp_path / "nothing.png")]) == 1
