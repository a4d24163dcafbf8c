"""`jepawm.load`: a model by name or folder that plans."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import spec_of
from PIL import Image
from published_files import published_model, published_parts
from safetensors.torch import save_file

import jepawm
from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import build_world_model, save_world_model
from jepawm.checkpoints.zoo import ZOO
from jepawm.config import (
    EncoderConfig,
    EnvConfig,
    EvaluationConfig,
    ModelConfig,
    PlannerConfig,
    PredictorConfig,
    ProprioConfig,
    RunConfig,
)
from jepawm.encoders import build_encoder
from jepawm.errors import CheckpointError, ConfigError, DataError, JepawmError, PlanningError
from jepawm.heads import ImageHead
from jepawm.types import ActionSpec, Statistics

CONFIG = RunConfig(
    env=EnvConfig(image_size=32),
    model=ModelConfig(
        EncoderConfig(name="vit", latent_dim=24, depth=1, num_heads=2, patch_size=8),
        PredictorConfig(name="adaln", depth=1, num_heads=4),
        ProprioConfig("feature", 8),
    ),
    planner=PlannerConfig(horizon=3, num_samples=64, num_elites=8, num_iterations=4, precision="float32"),
    evaluation=EvaluationConfig(protocols=("per_chunk",)),
)
SPEC = spec_of(
    CONFIG,
    Statistics(*(np.asarray(values, np.float32) for values in ([0.5, 0], [0.5, 2], [1, 2], [3, 4]))),
    ActionSpec(2, (-1.0, -3.0), (1.0, 3.0)),
)


def observation(seed: int, side: int = 32) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "pixels": random.integers(0, 256, (side, side, 3), dtype=np.uint8),
        "proprio": random.normal(size=2).astype(np.float32),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "run" / "model"
    save_world_model(str(folder), build_world_model(SPEC).eval(), SPEC)
    return folder


@pytest.fixture(scope="module")
def agent(folder: Path) -> Agent:
    return jepawm.load(folder, device="cpu")


def test_a_plan_is_actions_for_the_environment(agent: Agent) -> None:
    plan = agent.plan(observation(1), observation(2))
    assert plan.actions.shape == (3 * 5, 2)
    assert plan.actions.dtype == np.float32
    low, high = SPEC.action.low, SPEC.action.high
    assert (plan.actions >= low).all()
    assert (plan.actions <= high).all()
    assert plan.latents.visual.shape == (3, 16, 24)
    assert plan.best_cost_per_iteration.shape == plan.mean_elite_cost_per_iteration.shape == (4,)
    assert (plan.mean_elite_cost_per_iteration >= plan.best_cost_per_iteration).all()


def test_the_plan_is_the_planners_and_its_cost_the_models(agent: Agent) -> None:
    now, goal = observation(1), observation(2)
    plan = agent.plan(now, goal)
    chunks = torch.from_numpy(plan.actions).view(1, 3, 10)
    with torch.inference_mode():
        unrolled = agent.model.unroll(agent.encode(now), chunks)
        end, wanted = unrolled[0, -1], agent.encode(goal)[0, 0]
    expected = (end.visual - wanted.visual).square().mean() + 0.1 * (end.proprio - wanted.proprio).square().mean()
    assert plan.cost == pytest.approx(float(expected), rel=1e-4)
    torch.testing.assert_close(plan.latents.visual, unrolled.visual[0], rtol=1e-4, atol=1e-5)


def test_a_plan_says_which_planner_made_it(agent: Agent) -> None:
    now, goal = observation(1), observation(2)
    assert agent.plan(now, goal).planner == agent.planner.name
    settings = {"num_samples": 8, "num_elites": 4, "num_iterations": 1}
    assert agent.plan(now, goal, name="mppi", **settings).planner == "mppi"
    with pytest.raises(JepawmError, match="no-such-planner"):
        agent.plan(now, goal, name="no-such-planner")


def test_observations_from_rays_object_store_are_read_without_a_warning(agent: Agent) -> None:
    seen = agent.observations([observation(1)])
    assert seen.proprio is not None
    for array in (seen.pixels, seen.proprio):
        array.flags.writeable = False
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            agent.encode(seen)
    finally:
        torch.set_warn_always(False)


def test_searching_longer_comes_nearer(agent: Agent) -> None:
    now, goal = observation(1), observation(2)
    costs = [agent.plan(now, goal, num_iterations=count).cost for count in (1, 12)]
    assert costs[1] < costs[0]


def test_equal_seeds_give_equal_plans_and_micro_batches_change_nothing(agent: Agent) -> None:
    now, goal = observation(1), observation(2)
    first = agent.plan(now, goal, seed=3)
    np.testing.assert_array_equal(agent.plan(now, goal, seed=3).actions, first.actions)
    np.testing.assert_allclose(agent.plan(now, goal, seed=3, max_candidates_per_forward=7).actions, first.actions, 1e-4)
    assert not np.array_equal(agent.plan(now, goal, seed=4).actions, first.actions)


def test_several_observations_are_encoded_together(agent: Agent) -> None:
    seen = [observation(1), observation(2)]
    together = agent.encode(seen)
    assert together.lead == (1, 2)
    torch.testing.assert_close(together.visual[:, 1:], agent.encode(seen[1]).visual)


def test_a_run_folder_leads_to_its_model(folder: Path, agent: Agent) -> None:
    same = jepawm.load(str(folder.parent), device="cpu")
    np.testing.assert_array_equal(
        same.plan(observation(1), observation(2)).actions, agent.plan(observation(1), observation(2)).actions
    )


def test_a_picture_is_a_goal_without_proprio(agent: Agent, tmp_path: Path) -> None:
    now, wanted = observation(1), observation(2)["pixels"]
    plan = agent.plan(now, wanted)
    with torch.inference_mode():
        end = agent.model.unroll(agent.encode(now), torch.from_numpy(plan.actions).view(1, 3, 10))[0, -1]
        goal = agent.encode({"pixels": wanted, "proprio": np.zeros(2)})[0, 0]
    # The visual part alone, whatever the weight of proprio.
    assert plan.cost == pytest.approx(float((end.visual - goal.visual).square().mean()), rel=1e-4)
    np.testing.assert_array_equal(agent.plan(now, wanted, proprio_weight=5.0).actions, plan.actions)
    # A file of another size, whose middle is the picture with each pixel four times as large.
    large = np.pad(wanted.repeat(2, 0).repeat(2, 1), ((0, 0), (8, 8), (0, 0)))
    Image.fromarray(large).save(tmp_path / "goal.png")
    np.testing.assert_array_equal(agent.plan(now, tmp_path / "goal.png").actions, plan.actions)
    np.savez(tmp_path / "two.npz", pixels=np.stack([wanted, wanted]))
    with pytest.raises(DataError, match="holds 2 pictures, a goal is one of them"):
        agent.plan(now, str(tmp_path / "two.npz"))
    with pytest.raises(ConfigError, match=r"a picture as a goal must be uint8 \[Y,X,3\], found float64"):
        agent.plan(now, wanted / 255)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({}, r"reads observation\['pixels'\], found only nothing"),
        ({"pixels": np.zeros((32, 32, 3), np.uint8)}, r"reads observation\['proprio'\], found only pixels"),
        ({"pixels": np.zeros((3, 32, 32), np.uint8)}, r"must be uint8 \[Y,X,3\], found uint8 \[3, 32, 32\]"),
        ({"pixels": np.zeros((32, 32, 3))}, r"must be uint8 \[Y,X,3\], found float64"),
        (observation(1) | {"proprio": np.zeros(3)}, r"observation\['proprio'\] must have shape \[2\], found \[3\]"),
        (observation(1, side=40), r"expects frames \[C,Y,X\] = \[3,32,32\], found \[3,40,40\]"),
    ],
)
def test_observations_of_a_wrong_kind_are_refused(agent: Agent, now: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agent.plan(now, observation(2))
    with pytest.raises(ConfigError, match=message):
        agent.plan(observation(2), now)


def test_settings_that_do_not_exist_are_answered_with_the_nearest(agent: Agent) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'num_sample' \(did you mean 'num_samples'\?\)"):
        agent.plan(observation(1), observation(2), num_sample=3)
    with pytest.raises(ConfigError, match=r"num_elites must lie between 2 and"):
        agent.plan(observation(1), observation(2), num_samples=3)


def test_a_collapsed_model_is_not_planned_with(folder: Path) -> None:
    broken = jepawm.load(folder, device="cpu")
    torch.nn.init.zeros_(broken.model.predictor.norm.weight)
    with pytest.raises(PlanningError, match="cost the same"):
        broken.plan(observation(1), observation(2))


def test_the_hub_is_there_without_being_imported() -> None:
    assert callable(jepawm.hub.load_published)
    with pytest.raises(AttributeError, match="no attribute 'hubb'"):
        _ = jepawm.hubb


def test_neither_folder_nor_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a folder nor a published model \(did you mean 'jepa_wm_wall'\?\)"):
        jepawm.load("jepa_wm_walls")
    with pytest.raises(CheckpointError, match="not a whole checkpoint: missing"):
        jepawm.load(tmp_path)
    with pytest.raises(ConfigError, match="is a folder; checkpoint is for published models"):
        jepawm.load(tmp_path, checkpoint="x")
    (tmp_path / "wall.pth.tar").touch()
    with pytest.raises(ConfigError, match=r"is a file; load it as jepawm\.load\(NAME, checkpoint="):
        jepawm.load(tmp_path / "wall.pth.tar")


@pytest.mark.parametrize(("device", "message"), [("gpu", "found 'gpu'"), ("cuda:99", r"torch finds \d+ GPU\(s\) here")])
def test_devices_that_are_not_here_are_named(folder: Path, device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jepawm.load(folder, device=device)


def test_a_folders_backbone_may_have_moved_but_not_changed(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    tiny: dict[str, Any] = {"name": "dinov2", "latent_dim": 24, "depth": 1, "num_heads": 2, "position_grid": 4}
    for seed, name in ((0, "first"), (1, "other")):
        torch.manual_seed(seed)
        save_file(build_encoder(EncoderConfig(**tiny), 28).backbone.state_dict(), tmp_path / f"{name}.safetensors")
    encoder = EncoderConfig(**tiny, weights=str(tmp_path / "first.safetensors"), trainable=False)
    config = replace(CONFIG, env=EnvConfig(image_size=28), model=replace(CONFIG.model, encoder=encoder))
    spec = spec_of(config, SPEC.statistics, SPEC.action)
    model = build_world_model(spec).eval()
    now = observation(1, side=28)
    expected = Agent(model, spec).encode(now).visual
    save_world_model(str(tmp_path / "model"), model, spec)
    (tmp_path / "first.safetensors").rename(tmp_path / "moved.safetensors")

    def load(name: str | None) -> Agent:
        return jepawm.load(tmp_path / "model", device="cpu", encoder_weights=name and str(tmp_path / name))

    with pytest.raises(CheckpointError, match=r"weight file not found: .*first\.safetensors"):
        load(None).encode(now)
    assert torch.equal(load("moved.safetensors").encode(now).visual, expected)
    with pytest.raises(CheckpointError, match="are not those this model was trained on"):
        load("other.safetensors").encode(now)


def test_a_folder_that_holds_its_encoder_takes_no_other(folder: Path) -> None:
    with pytest.raises(ConfigError, match="holds its encoder; encoder_weights are for frozen, pretrained ones"):
        jepawm.load(folder, encoder_weights="x")


def test_a_published_model_plans(tmp_path: Path) -> None:
    """At its published size, on the real kind of backbone: one small search."""
    pytest.importorskip("timm")
    torch.save(published_parts(published_model("jepa_wm_wall")), tmp_path / "wall.pth.tar")
    torch.manual_seed(1)
    backbone = build_encoder(replace(ZOO["jepa_wm_wall"].encoder, weights=None), 224).encoder.backbone
    save_file(backbone.state_dict(), tmp_path / "dinov2.safetensors")
    agent = jepawm.load(
        "jepa_wm_wall",
        str(tmp_path / "wall.pth.tar"),
        device="cpu",
        encoder_weights=str(tmp_path / "dinov2.safetensors"),
    )
    plan = agent.plan(
        observation(1, side=224), observation(2, side=224), num_samples=3, num_elites=2, num_iterations=1, horizon=2
    )
    assert plan.actions.shape == (10, 2)
    assert np.isfinite(plan.cost)
    decoder = ImageHead(384, image_size=64, dim=32, depth=1)
    assert decoder.decode(plan.latents.visual[None]).shape == (1, 2, 3, 64, 64)
