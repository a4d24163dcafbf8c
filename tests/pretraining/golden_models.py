"""Encoders, predictors and clips of the golden vectors of pretraining, by the names of our modules."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from jepawm.config import EncoderConfig
from jepawm.config.pretraining_model import MaskPredictorConfig, PretrainingLossConfig, PretrainingModelConfig
from jepawm.encoders.vjepa_files import published_name
from jepawm.nn.weights import load_strict
from jepawm.pretraining import Pretraining, build_pretraining
from jepawm.pretraining.masks import MaskSet
from jepawm.pretraining.predictor import predictor_from_published

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def read(golden: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of one golden file."""
    folder = golden / "pretraining"
    return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it, as float32."""
    return {key.removeprefix(prefix): value.float() for key, value in tensors.items() if key.startswith(prefix)}


def pixels(clip: Tensor) -> Tensor:
    """`[B,C,T,Y,X]` frames as the golden encoders take them."""
    return clip.float() / 32


def masks_of(tensors: Mapping[str, Tensor], prefix: str) -> MaskSet:
    """The mask set at `PREFIX.enc` and `PREFIX.pred`."""
    return MaskSet(tensors[f"{prefix}.enc"].long(), tensors[f"{prefix}.pred"].long())


def model_config(settings: Mapping[str, Any], name: str, **loss: Any) -> PretrainingModelConfig:
    """The configuration of a golden file's `encoder` and `predictor`."""
    theirs, behind = settings["encoder"], settings["predictor"]
    encoder = EncoderConfig(
        name=name,
        latent_dim=theirs["embed_dim"],
        depth=theirs["depth"],
        num_heads=theirs["num_heads"],
        mlp_ratio=float(theirs["mlp_ratio"]),
        patch_size=theirs["patch_size"],
    )
    predictor = MaskPredictorConfig(
        embed_dim=behind["predictor_embed_dim"],
        depth=behind["depth"],
        num_heads=behind["num_heads"],
        mlp_ratio=float(behind["mlp_ratio"]),
        num_mask_tokens=behind["num_mask_tokens"],
    )
    return PretrainingModelConfig(encoder, predictor, PretrainingLossConfig(**loss))


def load_golden(pretraining: Pretraining, tensors: Mapping[str, Tensor], prefix: str = "") -> Pretraining:
    """Puts golden weights into a pretraining, strictly; the teacher gets `target`'s where they are there."""
    load_strict(pretraining.encoder, under(tensors, f"{prefix}encoder."), "golden encoder", rename=published_name)
    predictor = predictor_from_published(under(tensors, f"{prefix}predictor."))
    load_strict(pretraining.predictor, predictor, "golden predictor")
    target = under(tensors, f"{prefix}target.") or under(tensors, f"{prefix}encoder.")
    load_strict(pretraining.teacher.encoder, target, "golden teacher", rename=published_name)
    return pretraining


def golden_pretraining(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], name: str, prefix: str = "", **loss: Any
) -> Pretraining:
    """The pretraining of a golden file, with its weights."""
    config = model_config(settings, name, **loss)
    side = settings["encoder"]["img_size"]
    return load_golden(build_pretraining(config, side), tensors, prefix)


def our_name(key: str) -> str:
    """`encoder.X`, `predictor.X` or `target.X` of the release to the name in `Pretraining`."""
    part, _, name = key.partition(".")
    if part == "predictor":
        return f"predictor.{published_name(name).removeprefix('predictor_')}"
    return f"{'teacher.encoder' if part == 'target' else part}.{published_name(name)}"
