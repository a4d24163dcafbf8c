"""The action-score protocol on recorded clips."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import split_of
from torch import Tensor

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import ModelConfig, PlannerConfig
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.action_score import (
    LARGEST_ACTION,
    PUBLISHED_OBJECTIVE,
    PUBLISHED_PLANNER,
    ActionScore,
    action_score,
    choose_clips,
    errors_of,
    score_of,
)
from jepawm.latent import Latent
from jepawm.types import ActionSpec, Episode, Statistics, VectorSpec
from jepawm.world_model import WorldModel

SIZE, GREY_PER_M = 16, 250.0
NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
UNIT = Statistics(np.zeros(7, np.float32), np.ones(7, np.float32), np.zeros(7, np.float32), np.ones(7, np.float32))
QUICK = dataclasses.replace(PUBLISHED_PLANNER, num_samples=200, num_elites=10, num_iterations=8, precision="float32")


def frame_of(poses: np.ndarray) -> np.ndarray:
    """Pictures `[F,Y,X,3]` in which red, green and blue are x, y and z."""
    colours = np.clip(np.rint(128 + GREY_PER_M * poses[:, :3]), 0, 255).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(poses), SIZE, SIZE, 3)).copy()


def record(
    path: Path, *, dim: int = 7, lengths: tuple[int, ...] = (12, 9, 15), env_steps_per_frame: int = 1
) -> EpisodeDataset:
    names = NAMES[:dim]
    spec = DatasetSpec(
        name="arm",
        control_hz=4.0,
        pixels=PixelSpec(SIZE, SIZE, 3, "raw"),
        action=ActionSpec(dim, (-np.inf,) * dim, (np.inf,) * dim, names=names),
        proprio=VectorSpec(dim, names),
        env_steps_per_frame=env_steps_per_frame,
    )
    with EpisodeWriter(path, spec) as writer:
        for episode_id, length in enumerate(lengths):
            random = np.random.default_rng(episode_id)
            actions = random.uniform(-0.04, 0.04, ((length - 1) * env_steps_per_frame, dim)).astype(np.float32)
            actions[:, :3] += random.uniform(-0.02, 0.02, 3).astype(np.float32)
            poses = np.concatenate([np.zeros((1, dim)), np.cumsum(actions, axis=0)])[::env_steps_per_frame]
            writer.write(Episode(episode_id, frame_of(poses), actions, poses.astype(np.float32)))
    return EpisodeDataset(path)


class Arm(WorldModel):
    """Reads the place from the picture, and knows what actions do to it: forwards, backwards (`sign`) or not at all."""

    def __init__(self, sign: float = 1.0, frameskip: int = 1) -> None:
        torch.nn.Module.__init__(self)
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.sign, self.image_size, self.frameskip, self.uses_proprio = sign, SIZE, frameskip, False
        self.context_window, self.action_mean = 1, torch.zeros(7 * frameskip)

    def encode(self, pixels: Tensor, proprio: Tensor | None = None) -> Latent:
        return Latent((pixels.float().mean(dim=(-1, -2))[..., None, :] - 128) / GREY_PER_M)

    def unroll_candidates(self, context: Latent, chunks_BNHA: Tensor, past: Tensor | None = None) -> Latent:
        assert past is None
        moved_BNH3 = chunks_BNHA.unflatten(-1, (-1, 7))[..., :3].sum(dim=-2)
        return Latent(context.visual[:, None] + self.sign * moved_BNH3.cumsum(dim=2)[..., None, :])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return record(tmp_path_factory.mktemp("arm") / "dataset")


def spec_of(dataset: EpisodeDataset) -> ModelSpec:
    return ModelSpec(ModelConfig(), SIZE, dataset.spec.env_steps_per_frame, UNIT, dataset.spec.action)


def judge(dataset: EpisodeDataset, model: Arm, **settings: object) -> ActionScore:
    given = {"planner": QUICK, "num_clips": 12, "seed": 3, **settings}
    return action_score(model, spec_of(dataset), dataset, [0, 1, 2], **given)  # type: ignore[arg-type]


def test_the_scale_is_the_published_one() -> None:
    # The distance and the score that an issue of the published code quotes beside each other.
    assert score_of(0.0434) == pytest.approx(45.27, abs=0.03)
    assert score_of(0.0) == pytest.approx(80)
    assert score_of(0.1) == 0
    assert score_of(3.0) == 0


def test_errors_are_of_sums_over_the_clip() -> None:
    planned = np.array([[0.1, 0, 0, 0.2, 0, 0, 0.5], [0, 0.1, 0, 0, 0, 0, 0]])
    recorded = np.array([[0.1, 0.02, -0.01, 0.1, 0, 0, 0], [0, 0.05, 0, 0, 0, 0, 0]])
    found = errors_of(planned, recorded)
    assert found.xyz == pytest.approx((0.03 + 0.05) / 2)
    assert found.xyz_standard_error == pytest.approx(0.02 / np.sqrt(2) / np.sqrt(2))
    assert found.orientation == pytest.approx(0.05)
    assert found.closure == pytest.approx(0.25)
    assert found.per_dimension == pytest.approx([0, 0.035, 0.005, 0.05, 0, 0, 0.25])
    assert found.score == pytest.approx(800 * (0.1 - 0.04))
    assert found.cosine == pytest.approx((0.01 / (0.1 * np.linalg.norm([0.1, 0.02, 0.01])) + 1) / 2)
    assert errors_of(np.zeros((2, 7)), recorded).cosine is None


def test_a_model_that_knows_the_arm_scores_high(dataset: EpisodeDataset) -> None:
    good, wrong = judge(dataset, Arm()), judge(dataset, Arm(-1.0))
    assert good.plans.xyz < 0.02
    assert good.plans.score > 65
    assert good.plans.cosine is not None
    assert good.plans.cosine > 0.95
    # What stands beside it does not depend on the model.
    assert good.still == wrong.still
    assert good.random == wrong.random
    assert good.plans.xyz < 0.5 * good.still.xyz < wrong.plans.xyz
    assert wrong.plans.cosine is not None
    assert wrong.plans.cosine < -0.9


def test_doing_nothing_is_as_far_off_as_the_recording_went(dataset: EpisodeDataset) -> None:
    found = judge(dataset, Arm())
    summed = np.array([clip.recorded for clip in found.clips])
    assert found.still.xyz == pytest.approx(np.abs(summed[:, :3]).sum(axis=1).mean())
    for clip in found.clips:
        actions = dataset.read_column("actions", clip.episode_id)[clip.start : clip.start + 3]
        np.testing.assert_allclose(clip.recorded, actions.astype(np.float64).sum(axis=0), atol=1e-7)


def test_clips_of_recordings_that_hold_a_frame_every_few_env_steps(tmp_path: Path) -> None:
    # A plan of 3 chunks of 2 env_steps spans 3 recorded frames, so an episode of 4 frames holds one clip.
    dataset = record(tmp_path / "arm", lengths=(4, 4, 4), env_steps_per_frame=2)
    found = judge(dataset, Arm(frameskip=2))
    assert {clip.start for clip in found.clips} == {0}
    for clip in found.clips:
        actions = dataset.read_column("actions", clip.episode_id).reshape(-1, 7)
        np.testing.assert_allclose(clip.recorded, actions.astype(np.float64).sum(axis=0), atol=1e-7)
    assert found.plans.xyz < 0.5 * found.still.xyz
    with pytest.raises(DataError, match="holds a frame every 2 env_steps; frameskip must be a multiple of that, found"):
        judge(dataset, Arm(frameskip=3))


def test_plans_keep_to_the_largest_action(dataset: EpisodeDataset) -> None:
    narrow = (0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.05)
    wild = dataclasses.replace(QUICK, init_std=1.0)
    found = judge(dataset, Arm(), largest_action=narrow, planner=wild)
    planned = np.abs([clip.planned for clip in found.clips])
    assert (planned <= 3 * np.array(narrow) + 1e-6).all()
    assert planned[:, :3].max() > 0.025
    assert np.abs([clip.planned for clip in judge(dataset, Arm(), planner=wild).clips]).max() > 0.15
    assert LARGEST_ACTION == (0.1,) * 6 + (0.75,)


def test_the_batch_does_not_show(dataset: EpisodeDataset) -> None:
    one, other = judge(dataset, Arm(), clips_per_batch=5), judge(dataset, Arm(), clips_per_batch=12)
    assert [(c.episode_id, c.start) for c in one.clips] == [(c.episode_id, c.start) for c in other.clips]
    for a, b in zip(one.clips, other.clips, strict=True):
        np.testing.assert_allclose(a.planned, b.planned, atol=1e-5)


def test_clips_are_drawn_one_by_one(dataset: EpisodeDataset) -> None:
    ids, starts = choose_clips(dataset, [0, 1, 2], span=3, num_clips=60, seed=5)
    fewer = choose_clips(dataset, [2, 1, 0], span=3, num_clips=10, seed=5)
    np.testing.assert_array_equal(fewer[0], ids[:10])
    np.testing.assert_array_equal(fewer[1], starts[:10])
    assert set(ids) == {0, 1, 2}
    lengths = np.array([12, 9, 15])
    assert (starts + 3 < lengths[ids]).all()
    assert (starts + 3 == lengths[ids] - 1).any()
    only, _ = choose_clips(dataset, [0, 1, 2], span=12, num_clips=5, seed=5)
    assert set(only) == {2}


def test_what_cannot_be_judged_is_named(dataset: EpisodeDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a clip needs 21 frames, the longest of 3 episodes has 15; lower planner.hor"):
        judge(dataset, Arm(), planner=dataclasses.replace(QUICK, horizon=20))
    with pytest.raises(ConfigError, match=r"largest_action: expected 7 numbers above 0, found \[1.0, 0.0\]"):
        judge(dataset, Arm(), largest_action=[1.0, 0.0])
    small = record(tmp_path / "small", dim=4)
    with pytest.raises(DataError, match=r"small: the Action Score is about changes of a pose.*its actions have 4"):
        action_score(Arm(), spec_of(dataset), small, [0])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"changes of a pose.*the model's actions have 4"):
        action_score(Arm(), spec_of(small), dataset, [0])  # type: ignore[arg-type]
    bigger = Arm()
    bigger.image_size = 32
    with pytest.raises(ConfigError, match="holds frames of 16x16 px, the model sees 32; convert it with --image-size"):
        judge(dataset, bigger)


def test_the_published_planner_is_the_published_one() -> None:
    assert isinstance(PUBLISHED_PLANNER, PlannerConfig)
    found = PUBLISHED_PLANNER
    assert (found.horizon, found.num_samples, found.num_elites, found.num_iterations) == (3, 300, 10, 15)
    assert (found.init_std, found.min_std, found.hold_actions) == (0.1, 0.0, False)
    assert PUBLISHED_OBJECTIVE.proprio_weight == 0.0


def test_the_command_judges_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jepawm.config.command_line import parse
    from jepawm.console import Console
    from jepawm.runs.pipeline import score_actions
    from jepawm.runs.runtime import LocalRuntime

    dataset = record(tmp_path / "arm", lengths=(14,) * 8)
    flags = (
        f"--local --device cpu --data.source dataset --data.path {dataset.path} --data.frameskip 1 "
        "--data.num-frames-in-window 3 --data.held-out-fraction 0.5 --env.image-size 16 --train.num-train-steps 1 "
        "--train.batch-size 4 --model.encoder.kernel-sizes 5 3 --model.encoder.strides 2 2 "
        "--model.encoder.channels 4 4 --model.encoder.latent-dim 8 --model.encoder.hidden-dim 8 "
        "--evaluation.protocols per_chunk --planner.horizon 2 --planner.num-samples 8 --planner.num-elites 3 "
        f"--planner.num-iterations 2 --tracking.no-mlflow --run-dir {tmp_path / 'run'}"
    )
    config, _ = parse(flags.split())
    model_dir = LocalRuntime().train(config, str(dataset.path), str(tmp_path / "run"))
    told = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, num_episodes=5))
    result = score_actions(told, Console(quiet=True), model_dir)
    kept = json.loads((tmp_path / "run" / "action_score.json").read_text())
    assert kept["num_clips"] == 5
    assert kept["horizon"] == 2
    assert kept["plans"]["xyz"] == pytest.approx(result["plans"]["xyz"])
    # It was trained on this dataset: only held-out episodes are asked.

    held_out = {int(i) for i in split_of(config, dataset).held_out}
    assert {clip["episode_id"] for clip in kept["clips"]} <= held_out
    assert 0 < len(held_out) < 8


def test_a_dataset_becomes_a_recording_to_replay(dataset: EpisodeDataset, tmp_path: Path) -> None:
    from jepawm.env_check import check_env
    from jepawm.evaluation.action_score import write_recording

    path = tmp_path / "clips.npz"
    write_recording(dataset, [2, 0], path)
    from envs.droid import DroidEnv

    env = DroidEnv(path, SIZE)
    assert env.num_clips == 2
    assert env.control_hz == 4
    # The library's protocol and the environment's distance are one measure.
    found = judge(dataset, Arm())
    clip = next(clip for clip in found.clips if clip.episode_id == 2)
    start = np.array([0.0, clip.start, *[0.0] * 7])
    goal = np.array([0.0, clip.start + 3, *[0.0] * 7])
    env.reset(options={"sim_state": start})
    for _ in range(3):
        last = env.advance(np.array(clip.planned) / 3)
    expected = np.abs(np.subtract(clip.planned, clip.recorded))[:3].sum()
    assert env.distance(last, goal) == pytest.approx(expected, abs=1e-6)
    # It has the whole contract.
    from jepawm.config import EnvConfig

    options = (f"recording={path}",)
    findings, trial = check_env(EnvConfig(id="envs:envs/DROID-v1", image_size=SIZE, options=options))
    assert trial is not None
    assert {str(f) for f in findings if f.level == "FAIL"} <= {f for f in map(str, findings) if "pictures" in f}
    with pytest.raises(DataError, match="a recording needs 7 numbers of actions, found 4"):
        write_recording(record(tmp_path / "four", dim=4), [0], tmp_path / "no.npz")
