"""What is put together must fit together: dataset, environment, model, run directory."""

import subprocess
import sys
from dataclasses import replace

import pytest

from jepawm.checkpoints.model_folder import check_buildable
from jepawm.config import (
    EncoderConfig,
    EnvConfig,
    ModelConfig,
    PredictorConfig,
    ProprioConfig,
    RunConfig,
)
from jepawm.config.encoder import without_weights
from jepawm.config.recipe_files import load_recipe, recipe_names
from jepawm.config.yaml_io import load_yaml
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError, EnvironmentFault, JepawmError
from jepawm.rollout import CollectPlan, EnvHost
from jepawm.runs.directory import lock_run, prepare_run_dir
from jepawm.runs.preflight.environment import check_proprio
from jepawm.runs.preflight.episodes import check_frames
from jepawm.types import ActionSpec, VectorSpec

ADALN = PredictorConfig(name="adaln", num_heads=4)


def test_a_dataset_of_other_frames_or_another_environment_is_refused(wall_dataset):
    check_frames(wall_dataset, EnvConfig())
    with pytest.raises(ConfigError, match=r"frames of 64x64 px, env.image_size is 32; pass --env.image-size 64"):
        check_frames(wall_dataset, EnvConfig(image_size=32))
    recorded = EpisodeDataset(wall_dataset.path)
    recorded.spec = replace(recorded.spec, source={"env": {"id": "envs:envs/Wall-v1"}})
    check_frames(recorded, EnvConfig())
    with pytest.raises(ConfigError, match=r"was recorded in envs:envs/Wall-v1, env.id is envs:envs/PushT-v1"):
        check_frames(recorded, EnvConfig(id="envs:envs/PushT-v1"))
    # Without an environment a model may be trained where the recorded one cannot be made.
    check_frames(recorded, EnvConfig(id="none"))


def test_what_somebody_else_wrote_into_the_source_of_a_dataset_is_no_environment(wall_dataset):
    written = EpisodeDataset(wall_dataset.path)
    for env in ("Push-T", None, ["envs/PushT-v1"]):
        written.spec = replace(written.spec, source={"env": env})
        check_frames(written, EnvConfig())
    # The same field in our form is read, so the three above were accepted for their form.
    written.spec = replace(written.spec, source={"env": {"id": "envs/PushT-v1"}})
    with pytest.raises(ConfigError, match=r"was recorded in envs/PushT-v1"):
        check_frames(written, EnvConfig())


def test_episodes_without_actions_train_no_world_model(wall_dataset):
    videos = EpisodeDataset(wall_dataset.path)
    videos.spec = replace(videos.spec, action=ActionSpec(0, (), ()))
    with pytest.raises(ConfigError, match=r"holds frames without actions \(videos\): a world model learns"):
        check_frames(videos, EnvConfig())


def test_episodes_without_the_environments_proprio_are_refused(wall_dataset):
    config = RunConfig(model=ModelConfig(predictor=ADALN, proprio=ProprioConfig("feature")))
    check_proprio(config.model, wall_dataset, VectorSpec(2, ("x", "y")), config.env.id)
    message = r"proprio of 2 numbers \(x, y\), envs:envs/Wall-v1 gives 1 \(x\); .* --model.proprio.encoding none"
    with pytest.raises(ConfigError, match=message):
        check_proprio(config.model, wall_dataset, VectorSpec(1, ("x",)), config.env.id)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(EncoderConfig(name="vit")), r"64 x 64 px cannot be cut into patches of 14 px; set .*resize_to"),
        (ModelConfig(EncoderConfig(name="vit", patch_size=8, latent_dim=33, num_heads=2)), "latent_dim must be div"),
        (ModelConfig(EncoderConfig(name="vit", patch_size=8, weights="/nope.pt")), "weight file not found: /nope.pt"),
        (ModelConfig(EncoderConfig(name="dinov2", weights="/nope.pt", resize_to=56, trainable=False)), "not found"),
        (ModelConfig(EncoderConfig(name="vjepa2", tokenization="clip")), "one latent per two frames"),
        (ModelConfig(predictor=PredictorConfig(name="adaln", num_heads=5)), "64 channels .* into 5 heads"),
        (ModelConfig(predictor=ADALN, proprio=ProprioConfig("feature", 3)), "67 channels"),
    ],
)
def test_models_that_cannot_be_built_are_refused_before_any_work(model, message):
    with pytest.raises(JepawmError, match=message):
        check_buildable(model, image_size=64, frameskip=5)


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_model_of_every_recipe_can_be_built(recipe):
    config = load_recipe(recipe)
    # Pretrained weights are fetched where a run begins, not here.
    model = replace(config.model, encoder=without_weights(config.model.encoder))
    assert check_buildable(model, image_size=config.env.image_size, frameskip=config.data.frameskip)


def test_poses_can_be_built_without_knowing_the_episodes():
    pose = ModelConfig(
        predictor=PredictorConfig(name="vjepa2_ac", num_heads=4),
        proprio=ProprioConfig("token", update="integrate_pose"),
    )
    assert check_buildable(pose, image_size=64, frameskip=1)
    # Without the episodes the pose counts as seven numbers, which fit no chunk of two actions.
    with pytest.raises(ConfigError, match=r"action chunks of 7 numbers .*, found 7 and 14"):
        check_buildable(pose, image_size=64, frameskip=2)


def test_an_unknown_policy_is_one_clear_error():
    with pytest.raises(EnvironmentFault, match=r"data.policy: .*wall_mixed_walk"):
        EnvHost(EnvConfig(image_size=32)).collect([0], CollectPlan("wall_mixd_walk", 0, 5, "raw"))


def test_a_run_directory_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make the run directory .*file/run"):
        prepare_run_dir(RunConfig(run_dir=str(tmp_path / "file" / "run")), "demo")


def test_a_continued_run_keeps_the_configuration_of_the_last_command(tmp_path):
    first = RunConfig(run_dir=str(tmp_path / "run"))
    folder, continued = prepare_run_dir(first, "demo")
    assert not continued
    later = replace(first, evaluation=replace(first.evaluation, num_episodes=7))
    assert prepare_run_dir(later, "demo") == (folder, True)
    saved = load_yaml(RunConfig, f"{folder}/config.yaml")
    assert saved.evaluation.num_episodes == 7
    assert saved.run_dir is None


def test_a_run_directory_in_use_is_refused(tmp_path):
    with lock_run(str(tmp_path)):
        with pytest.raises(ConfigError, match="is in use by another process"), lock_run(str(tmp_path)):
            pass


def test_evaluate_has_help_and_names_a_missing_model(repo, tmp_path):
    def job(*words):
        command = [sys.executable, str(repo / "ray_jobs" / "evaluate.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    answer = job("--help")
    assert answer.returncode == 0
    assert "--model" in answer.stdout
    answer = job("--model", "nowhere/model")
    assert answer.returncode == 1
    assert (
        answer.stderr.strip()
        == "error: nowhere/model is no model folder: it has no config.yaml; pass --model RUN or RUN/model"
    )
