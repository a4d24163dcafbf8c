"""Files in the layout of the published systems, made from our models: the inverse of `jepawm.checkpoints.zoo`."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepawm.checkpoints.zoo import ENVS, ZOO, model_config
from jepawm.world_model import WorldModel

_ADALN = [
    (r"^blocks\.(\d+)\.modulation\.", r"predictor_blocks.\1.adaLN_modulation.1."),
    (r"^blocks\.", "predictor_blocks."),
    (r"^(embed|norm)\.", r"predictor_\1."),
    (r"^project\.", "predictor_proj."),
    (r"^action\.", "action_encoder."),
    (r"^pose\.", "proprio_encoder."),
]
_DINO_WM = [
    (r"^positions$", "pos_embedding"),
    (r"^norm\.", "transformer.norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"transformer.layers.\1.0.norm."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"transformer.layers.\1.0.to_qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"transformer.layers.\1.0.to_out.0."),
    (r"^blocks\.(\d+)\.norm2\.", r"transformer.layers.\1.1.net.0."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"transformer.layers.\1.1.net.1."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"transformer.layers.\1.1.net.4."),
]


def published_model(name: str, *, seed: int = 0) -> WorldModel:
    """A published architecture with random weights and without an encoder."""
    torch.manual_seed(seed)
    env = ENVS[ZOO[name].env]
    return WorldModel(
        model_config(ZOO[name].fields), image_size=224, frameskip=env.frameskip, statistics=env.statistics
    ).eval()


def dino_wm_original(env: str, frames: int) -> WorldModel:
    """The original DINO-WM with two blocks: 14 x 14 patches, a proprio feature of ten, a history of `frames`."""
    own = {"img_size": 196, "num_frames_pred": frames, "ctxt_window": frames, "depth": 2, "proprio_emb_dim": 10}
    torch.manual_seed(1)
    return WorldModel(
        model_config({**ZOO[f"dino_wm_{env}"].fields, **own}),
        image_size=224,
        frameskip=ENVS[env].frameskip,
        statistics=ENVS[env].statistics,
    ).eval()


def published_parts(model: WorldModel, *, prefix: str = "module.") -> dict[str, Any]:
    """What the published training code saves of such a model."""
    dino_wm = model.config.predictor.name == "feature"
    parts: dict[str, dict[str, Tensor]] = {"predictor": {}, "action_encoder": {}, "proprio_encoder": {}}
    for key, value in model.state_dict().items():
        room, _, name = key.partition(".")
        if room == "proprio_encoder" or (dino_wm and key.startswith("predictor.action.")):
            part = "proprio_encoder" if room == "proprio_encoder" else "action_encoder"
            leaf = name.rpartition(".")[2]
            parts[part][f"{prefix}patch_embed.{leaf}"] = value[..., None] if leaf == "weight" else value
        elif room == "predictor":
            for pattern, published in _DINO_WM if dino_wm else _ADALN:
                name, count = re.subn(pattern, published, name)
                if count:
                    break
            parts["predictor"][f"{prefix}{name}"] = value
    return {**{part: tensors or None for part, tensors in parts.items()}, "epoch": 50, "opt": None}


def save_dino_wm(path: Path, model: WorldModel, *, decoder: dict[str, Tensor] | None = None) -> str:
    """Saves it as the original DINO-WM does, pickled modules and all; their classes are gone afterwards.

    Args:
        path: Of the file.
        model: Its predictor and its encoders of action and proprio.
        decoder: Tensors of an image decoder by published name.
    """
    homes = {name: types.ModuleType(name) for name in ("models", "models.vit", "models.proprio", "models.vqvae")}

    def module_of(home: str, kind: str, tensors: dict[str, Tensor]) -> nn.Module:
        cls = vars(homes[home]).setdefault(kind, type(kind, (nn.Module,), {"__module__": home}))
        root: Any = cls()
        for key, value in tensors.items():
            *steps, leaf = key.split(".")
            at = root
            for step in steps:
                if step not in at._modules:
                    at.add_module(step, nn.Module())
                at = at._modules[step]
            at.register_parameter(leaf, nn.Parameter(value.clone()))
        return root

    parts = published_parts(model, prefix="")
    content: dict[str, Any] = {"epoch": 100, "predictor": module_of("models.vit", "ViTPredictor", parts["predictor"])}
    for name in ("action_encoder", "proprio_encoder"):
        content[name] = module_of("models.proprio", "ProprioceptiveEmbedding", parts[name])
    if decoder is not None:
        content["decoder"] = module_of("models.vqvae", "VQVAE", decoder)
    sys.modules.update(homes)
    try:
        torch.save(content, path)
    finally:
        for name in homes:
            del sys.modules[name]
    return str(path)
