"""Folders as on the Hugging Face hub, of every kind of model that is read, small enough for tests."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

TRANSFORMER = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
WITH_MLP = {**TRANSFORMER, "intermediate_size": 48}
# Class of the configuration, its settings, and the class that is saved.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("ViTConfig", {**WITH_MLP, "image_size": 32, "patch_size": 8}, "ViTModel"),
    "deit": ("DeiTConfig", {**WITH_MLP, "image_size": 32, "patch_size": 8}, "DeiTModel"),
    "ijepa": ("IJepaConfig", {**WITH_MLP, "image_size": 32, "patch_size": 8}, "IJepaModel"),
    "vit_mae": (
        "ViTMAEConfig",
        {
            **WITH_MLP,
            "image_size": 32,
            "patch_size": 8,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 16,
        },
        "ViTMAEForPreTraining",
    ),
    "dinov2": ("Dinov2Config", {**TRANSFORMER, "mlp_ratio": 2, "image_size": 70, "patch_size": 14}, "Dinov2Model"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersConfig",
        {**TRANSFORMER, "mlp_ratio": 2, "image_size": 70, "patch_size": 14, "num_register_tokens": 4},
        "Dinov2WithRegistersModel",
    ),
    "dinov3_vit": (
        "DINOv3ViTConfig",
        {**WITH_MLP, "image_size": 32, "patch_size": 16, "num_register_tokens": 4, "pos_embed_rescale": 2.0},
        "DINOv3ViTModel",
    ),
    "siglip": (
        "SiglipConfig",
        {
            "vision_config": {**WITH_MLP, "image_size": 32, "patch_size": 8},
            "text_config": {**WITH_MLP, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2},
        },
        "SiglipModel",
    ),
    "clip": (
        "CLIPConfig",
        {
            "vision_config": {**WITH_MLP, "image_size": 32, "patch_size": 8},
            "text_config": {**WITH_MLP, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2},
            "projection_dim": 16,
        },
        "CLIPModel",
    ),
    "vjepa2": (
        "VJEPA2Config",
        {
            **TRANSFORMER,
            "mlp_ratio": 2,
            "crop_size": 32,
            "frames_per_clip": 4,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
        "VJEPA2Model",
    ),
}
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
    "resample": 3,
}


def write(folder: Path, kind: str, processor: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Writes a model with random weights and its preprocessing; returns transformers' model in evaluation mode."""
    transformers = pytest.importorskip("transformers")
    config_class, settings, model_class = MODELS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings | changes))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        # Weights that are not zero, one or tiny anywhere, so that a tensor in the wrong place shows.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    side = settings.get("vision_config", settings).get("image_size", 32)
    processor = PROCESSOR | {"size": {"height": side, "width": side}} if processor is None else processor
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model.eval()
