"""Recipes of published models: the published architecture, a small size that trains, what they say of themselves."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from configs import unit_spec

from jepawm.checkpoints.zoo import ZOO, model_config
from jepawm.config import RunConfig
from jepawm.config.recipe import RecipeDataset, about_recipe
from jepawm.config.recipe_files import load_recipe, recipe_family, recipe_layers, recipe_names
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError
from jepawm.training.checkpoint import fresh_state
from jepawm.training.estimate import GPUS, UTILISATION, estimate_training
from jepawm.training.run import run_training
from jepawm.training.update import update
from jepawm.types import ActionSpec, WindowBatch

CPU = torch.device("cpu")
PUBLISHED = {
    **{f"jepa_wm/{env}": f"jepa_wm_{env}" for env in ("metaworld", "pusht", "pointmaze", "wall", "droid")},
    **{f"dino_wm_retrained/{env}": f"dino_wm_{env}" for env in ("metaworld", "pusht", "pointmaze", "wall", "droid")},
    "vjepa2_ac/droid": "vjepa2_ac_droid",
    "vjepa2_ac/droid_pose": "vjepa2_ac_oss",
}
SMALL = [name for name in recipe_names() if any("small" in data for _, data in recipe_family(name))]


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_trains_the_published_architecture(recipe: str) -> None:
    published, config = ZOO[PUBLISHED[recipe]], load_recipe(recipe)
    expected = model_config(published.fields, published.encoder)
    assert config.model.encoder == expected.encoder
    assert config.model.predictor == expected.predictor
    assert config.model == expected
    assert config.data.frameskip == published.fields["frameskip"]


def windows(config: RunConfig, widths: tuple[int, int]) -> WindowBatch:
    """A batch of random windows for a configuration."""
    rng, (a, R), B = np.random.default_rng(0), widths, config.train.batch_size
    T, size = config.data.num_frames_in_window, config.env.image_size
    return WindowBatch(
        rng.integers(0, 256, (B, T, size, size, 3), dtype=np.uint8),
        rng.normal(size=(B, T - 1, config.data.frameskip * a)).astype(np.float32),
        rng.normal(size=(B, T, R)).astype(np.float32),
        None,
        np.arange(B),
        np.arange(B),
    )


@pytest.mark.parametrize("recipe", SMALL)
def test_a_recipe_is_stepped_at_its_small_size(recipe: str) -> None:
    full, config = load_recipe(recipe), load_recipe(recipe, small=True)
    kinds = [type(part) for part in (full.model.predictor, full.loss, full.optim.schedule)]
    assert kinds == [type(part) for part in (config.model.predictor, config.loss, config.optim.schedule)]
    assert config.loss == full.loss
    assert config.model.proprio == full.model.proprio
    assert config.train.init_from is None
    train = dataclasses.replace(config.train, batch_size=4, precision="float32")
    config = dataclasses.replace(config, device="cpu", train=train)
    pose = config.model.proprio.update == "integrate_pose"
    a, R = (7, 7) if pose else (2, 4)
    spec = unit_spec(config, ActionSpec(a, (-1.0,) * a, (1.0,) * a), R)
    state = fresh_state(config.training_plan(), spec, CPU)
    before = {name: value.clone() for name, value in state.objective.state_dict().items()}
    terms = update(state.objective.train(), state, windows(config, (a, R)), train=train, optim=config.optim, device=CPU)
    assert torch.isfinite(terms["loss"])
    assert terms["gradient_norm"] > 0
    changed = {name for name, value in state.objective.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name, parameter in state.objective.named_parameters() if parameter.requires_grad} & changed
    assert sum(parameter.numel() for parameter in state.objective.parameters()) < 2_000_000


@pytest.mark.parametrize("recipe", ["jepa_wm/wall", "dino_wm/wall", "robust/dino_wm_pusht"])
def test_a_recipe_learns_at_its_small_size(recipe: str, wall_dataset: EpisodeDataset) -> None:
    config = load_recipe(recipe, small=True)
    train = dataclasses.replace(
        config.train, num_train_steps=30, precision="float32", log_every=1, prediction_windows=8, diagnostics_windows=8
    )
    optim = dataclasses.replace(config.optim, learning_rate=2e-3)
    env = dataclasses.replace(config.env, image_size=64)
    config = dataclasses.replace(config, device="cpu", env=env, train=train, optim=optim)
    records: list[dict[str, Any]] = []
    run_training(config.training_plan(), str(wall_dataset.path), on_metrics=records.append)
    losses = [record["train/loss"] for record in records]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    last = records[-1]
    steps = config.data.num_frames_in_window - 1
    for k in range(1, steps + 1):
        assert last[f"validation/error_{k}"] > 0
        assert last[f"validation/error_shuffled_actions_{k}"] > 0
    assert f"validation/error_{steps + 1}" not in last


# -- what a training takes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["dino_wm/wall", "straightened/pointmaze"])
def test_a_full_model_is_stepped_without_memory(recipe: str) -> None:
    config = load_recipe(recipe)
    found = estimate_training(config.training_plan(), action_dim=2, proprio_dim=4)
    frozen = 0 if config.model.encoder.trainable else 22_056_192
    assert found.frozen_parameters == frozen
    assert found.trained_parameters > 10_000_000
    assert found.flops_per_window > 2 * found.trained_parameters
    assert found.kept_bytes_per_window > 0
    assert found.num_windows == config.train.num_train_steps * config.train.batch_size
    h100 = GPUS["h100"]
    peak = h100.half_flops if found.half else h100.float_flops
    seconds = found.num_windows * found.flops_per_window / (UTILISATION * peak)
    assert found.hours(h100) == pytest.approx(seconds / 3600)
    assert found.hours(GPUS["a100"]) > found.hours(h100)


def test_counted_arithmetic_is_that_of_matrices() -> None:
    # A perceptron on given latents: every number is known on paper.
    config = load_recipe("demo")
    found = estimate_training(config.training_plan(), action_dim=2, proprio_dim=2)
    D, A, hidden, T = 64, 10, 256, 4
    layers = (D + A) * hidden + hidden * hidden + hidden * D
    inverse = 2 * D * hidden + hidden * hidden * 0 + hidden * A
    least = 3 * 2 * (T - 1) * (layers + inverse)
    # The convolutions and their two linear layers are the rest.
    encoder = 3 * 2 * T * (15 * 15 * 16 * 3 * 25 + 7 * 7 * 32 * 16 * 9 + 3 * 3 * 32 * 32 * 9)
    assert found.flops_per_window > least + 0.5 * encoder
    assert found.flops_per_window < 3 * (least + encoder)


def test_activation_checkpointing_and_micro_batches_are_counted() -> None:
    config = load_recipe("dino_wm/wall", small=True)
    sizes = {}
    for on in (False, True):
        train = dataclasses.replace(config.train, activation_checkpointing=on, micro_batches=1 + 3 * on)
        plan = dataclasses.replace(config, train=train).training_plan()
        sizes[on] = estimate_training(plan, action_dim=2, proprio_dim=2)
    assert sizes[True].kept_bytes_per_window < sizes[False].kept_bytes_per_window
    assert sizes[True].windows_at_once == sizes[False].windows_at_once // 4
    assert sizes[True].memory_gib < sizes[False].memory_gib


# -- what recipes say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_a_paper_names_it(name: str) -> None:
    about = about_recipe(name)
    if "/" in name:
        assert "arXiv" in about.paper
        assert about.table
        assert about.dataset.episodes
    for result in about.published:
        assert 0 < result.value <= (100 if result.metric == "action_score" else 2)
        assert result.metric in str(result)


def test_windows_of_an_epoch_are_counted() -> None:
    pusht = about_recipe("dino_wm/pusht").dataset
    assert pusht.num_windows(num_frames_in_window=4, frameskip=5) == 2_336_736 - 18_685 * 15
    assert RecipeDataset().num_windows(num_frames_in_window=4, frameskip=5) is None
    with pytest.raises(ConfigError, match="3 episodes and 0 frames do not fit"):
        RecipeDataset(episodes=3)


def write(folder: Path, name: str, **data: Any) -> str:
    (folder / name).write_text(yaml.safe_dump(data))
    return str(folder / name)


def test_results_are_a_recipes_own_and_notes_add_up(tmp_path: Path) -> None:
    result = {"metric": "success_rate", "value": 0.5, "how": "by hand"}
    write(tmp_path, "parent.yaml", about={"paper": "P", "published": [result], "notes": ["one"], "ours": "measured"})
    child = write(tmp_path, "child.yaml", extends="parent.yaml", about={"notes": ["two"], "table": "T"})
    about = about_recipe(child)
    assert (about.paper, about.table, about.published, about.ours) == ("P", "T", (), "")
    assert about.notes == ("one", "two")
    assert recipe_layers(child)[0][1] == {}
    wrong = write(tmp_path, "wrong.yaml", about={"papr": "P"})
    with pytest.raises(ConfigError, match=r"wrong.yaml: about: unknown key 'papr'"):
        about_recipe(wrong)
    wrong = write(tmp_path, "wrong.yaml", about={"published": [{**result, "valu": 1}]})
    with pytest.raises(ConfigError, match=r"wrong.yaml: about: 'published.0'"):
        about_recipe(wrong)


def test_a_small_size_lies_over_every_setting_and_needs_to_be_stated(tmp_path: Path) -> None:
    parent = write(tmp_path, "p.yaml", train={"batch_size": 64}, small={"train": {"batch_size": 8}, "seed": 5})
    child = write(
        tmp_path,
        "c.yaml",
        extends="p.yaml",
        train={"batch_size": 128},
        model={"predictor": {"name": "recurrent"}},
        small={"model": {"predictor": {"name": "recurrent", "hidden_dim": 7}}},
    )
    assert load_recipe(parent).train.batch_size == 64
    assert load_recipe(child).train.batch_size == 128
    small = load_recipe(child, small=True)
    assert (small.train.batch_size, small.seed, small.model.predictor.hidden_dim) == (8, 5, 7)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="recipe demo states no small size"):
        load_recipe("demo", small=True)
