"""Configurations of older formats still load."""

from dataclasses import replace
from typing import Any

import pytest

from jepawm.config import (
    EncoderConfig,
    LossConfig,
    ObjectiveConfig,
    OptimConfig,
    PredictorConfig,
    RunConfig,
    ScheduleConfig,
    from_dict,
    to_dict,
)
from jepawm.config.migrate import migrate
from jepawm.errors import ConfigError

# As format 1 wrote them: the settings of every kind in every file.
ENCODER_1: dict[str, Any] = {
    "name": "conv",
    "size": None,
    "weights": None,
    "weights_part": "target_encoder",
    "trainable": True,
    "feature": "patch",
    "normalization": "symmetric",
    "resize_to": 0,
    "resize": "bilinear",
    "latent_dim": 0,
    "depth": 0,
    "num_heads": 0,
    "mlp_ratio": 0.0,
    "patch_size": 0,
    "num_registers": 0,
    "position_grid": 0,
    "tokenization": "frame",
    "rotary_pairing": "published",
    "projector_dim": 0,
    "channels": [16, 32, 32],
    "kernel_sizes": [5, 3, 3],
    "strides": [4, 2, 2],
    "hidden_dim": 256,
}
PREDICTOR_1: dict[str, Any] = {
    "name": "mlp",
    "context_window": 1,
    "hidden_dim": 256,
    "num_layers": 2,
    "embed_dim": 0,
    "depth": 6,
    "num_heads": 16,
    "head_dim": 0,
    "mlp_dim": 0,
    "dropout": 0.0,
    "position": "rotary",
    "num_positions": 0,
    "rotary_pairing": "published",
    "modulation_std": 0.2,
    "action_as": "token",
    "action_dims": 0,
    "projector_dim": 0,
    "input_projection": True,
    "qkv_bias": True,
}


def of_format_1(encoder: dict[str, Any], predictor: dict[str, Any]) -> dict[str, Any]:
    return {
        "seed": 0,
        "model": {"encoder": ENCODER_1 | encoder, "predictor": PREDICTOR_1 | predictor, "normalize_latents": False},
        "optim": {"grad_clip_norm": 0.0},
        "planner": {"name": "cem", "horizon": 6, "proprio_weight": 0.3, "max_candidates_per_forward": 0},
        "evaluation": {"two_plan": {"replan_every": 6, "max_chunks": 12, "success_at": "plan_end", "cost": "last"}},
        "scaling": {"cpus_per_worker": 0, "object_store_memory_mib": 0},
    }


@pytest.mark.parametrize(
    ("encoder", "expected_encoder"),
    [
        ({}, EncoderConfig()),
        ({"latent_dim": 32}, EncoderConfig(latent_dim=32)),
        (
            {"name": "vit", "latent_dim": 64, "depth": 3, "num_heads": 4, "patch_size": 8, "projector_dim": 256},
            EncoderConfig(name="vit", latent_dim=64, depth=3, num_heads=4, patch_size=8, projector_dim=256),
        ),
        (
            {"name": "dinov2", "size": "small", "weights": "timm", "trainable": False, "resize_to": 224},
            EncoderConfig(name="dinov2", size="small", weights="timm", trainable=False, resize_to=224),
        ),
    ],
)
@pytest.mark.parametrize(
    ("predictor", "expected_predictor"),
    [
        ({}, PredictorConfig()),
        (
            {"name": "adaln", "position": "learned", "num_positions": 4, "action_dims": 128},
            PredictorConfig(name="adaln", position="learned", num_positions=4, action_dims=128),
        ),
    ],
)
def test_a_configuration_of_format_1_is_todays(
    encoder: dict[str, Any],
    expected_encoder: EncoderConfig,
    predictor: dict[str, Any],
    expected_predictor: PredictorConfig,
) -> None:
    old = of_format_1(encoder, predictor)
    before = repr(old)
    config = from_dict(RunConfig, migrate(old, "old"), "old")
    assert repr(old) == before
    # Format 1 wrote out what is now said by leaving it out.
    assert config.model.encoder == replace(expected_encoder, normalization="symmetric", resize="bilinear")
    assert config.model.predictor == expected_predictor
    assert config.objective == ObjectiveConfig(proprio_weight=0.3)
    assert config.optim.grad_clip_norm is None
    assert config.planner.max_candidates_per_forward is None
    assert (config.scaling.cpus_per_worker, config.scaling.object_store_memory_mib) == (None, None)
    assert config.evaluation.two_plan.cost == "last"


def test_todays_configurations_are_left_as_they_are() -> None:
    for config in (RunConfig(), RunConfig(objective=ObjectiveConfig(proprio_weight=0.0))):
        plain = to_dict(config)
        # Without its version a file may be of format 1, or written by a person: the rules change neither.
        assert migrate(plain, "mine") == plain
        for version in (2, 3):
            assert migrate({"config_version": version, **plain}, "mine") == plain


@pytest.mark.parametrize("version", [{}, {"config_version": 1}, {"config_version": 2}])
def test_supervision_and_schedule_of_format_2_are_todays(version: dict[str, int]) -> None:
    old = {
        **version,
        "loss": {"supervision": "teacher_forcing", "sigreg": 0.1},
        "optim": {"learning_rate": 2e-3, "warmup_fraction": 0.2, "final_fraction": 0.1},
    }
    config = from_dict(RunConfig, migrate(old, "old"), "old")
    assert config.loss == LossConfig(name="teacher_forcing", sigreg=0.1)
    schedule = ScheduleConfig(warmup_fraction=0.2, final_fraction=0.1)
    assert config.optim == OptimConfig(learning_rate=2e-3, schedule=schedule)


def test_a_setting_of_another_kind_that_was_changed_is_answered() -> None:
    old = of_format_1({"name": "vit", "channels": [4]}, {})
    with pytest.raises(ConfigError, match=r"old: unknown key 'model\.encoder\.channels'"):
        from_dict(RunConfig, migrate(old, "old"), "old")


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"new\.yaml: config_version is 4, this jepawm reads 3"):
        migrate({"config_version": 4}, "new.yaml")
