"""What the published systems are: their names, architectures, statistics and files, in our words.

Everything that translates between their vocabulary and ours is in this module. Facts from facebookresearch/jepa-wms
(arXiv 2512.24497), gaoyuezhou/dino_wm (arXiv 2411.04983) and facebookresearch/vjepa2 (arXiv 2506.09985).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jepawm.config.encoder import (
    AbsentEncoderConfig,
    DINOv2EncoderConfig,
    DINOv3EncoderConfig,
    EncoderConfig,
    VJEPA2EncoderConfig,
)
from jepawm.config.evaluation import ProtocolConfig
from jepawm.config.model import ModelConfig, ProprioConfig
from jepawm.config.objective import ObjectiveConfig
from jepawm.config.planner import PlannerConfig
from jepawm.config.predictor import (
    AdaLNPredictorConfig,
    FeaturePredictorConfig,
    PredictorConfig,
    VJEPA2ACPredictorConfig,
)
from jepawm.config.yaml_io import to_dict
from jepawm.errors import ConfigError, did_you_mean
from jepawm.published_statistics import PUBLISHED_STATISTICS
from jepawm.types import ActionSpec, Statistics

HUB_REPOSITORY = "facebook/jepa-wms"
FILE_SERVER = "https://dl.fbaipublicfiles.com/jepa-wms"
# Side of the frames that the published environments draw, pixels.
IMAGE_SIZE = 224


@dataclass(frozen=True)
class PublishedEnv:
    """An environment family, as its models were trained.

    Attributes:
        env_id: Our environment.
        statistics: Of raw actions and proprio in the training data.
        action: One environment step's action, with the bounds planners keep to.
        frameskip: Environment steps per model step.
        planner: The search of the published evaluation.
        protocol: Its protocol: when a plan is made anew, how many chunks an episode has.
        objective: Its cost.
    """

    env_id: str
    statistics: Statistics
    action: ActionSpec
    frameskip: int
    planner: PlannerConfig
    protocol: ProtocolConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


def _protocol(replan_every: int, max_chunks: int) -> ProtocolConfig:
    return ProtocolConfig(replan_every, max_chunks, success_at="plan_end")


_POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

ENVS: dict[str, PublishedEnv] = {
    "metaworld": PublishedEnv(
        "envs:envs/Metaworld-v1",
        PUBLISHED_STATISTICS["metaworld"],
        ActionSpec(4, (-1.0,) * 4, (1.0,) * 4, names=("x", "y", "z", "gripper")),
        5,
        PlannerConfig.preset("jepa_wms_metaworld"),
        _protocol(3, 20),
    ),
    "pusht": PublishedEnv(
        "envs:envs/PushT-v1",
        PUBLISHED_STATISTICS["pusht"],
        ActionSpec(2, (-5.12, -5.12), (5.12, 5.12), names=("target_x", "target_y"), units="100 px"),
        5,
        PlannerConfig.preset("jepa_wms"),
        _protocol(6, 6),
    ),
    "pointmaze": PublishedEnv(
        "envs:envs/PointMaze-v1",
        PUBLISHED_STATISTICS["pointmaze"],
        ActionSpec(2, (-1.0, -1.0), (1.0, 1.0), names=("x", "y")),
        5,
        PlannerConfig.preset("jepa_wms"),
        _protocol(6, 6),
    ),
    "wall": PublishedEnv(
        "envs:envs/Wall-v1",
        PUBLISHED_STATISTICS["wall"],
        ActionSpec(2, (-28.0, -28.0), (28.0, 28.0), names=("x", "y"), units="2 px"),
        5,
        PlannerConfig.preset("jepa_wms"),
        _protocol(6, 6),
    ),
    "droid": PublishedEnv(
        "envs:envs/DROID-v1",
        PUBLISHED_STATISTICS["droid"],
        ActionSpec(7, (-0.1,) * 6 + (-0.75,), (0.1,) * 6 + (0.75,), names=_POSE, units="m, rad, closure"),
        1,
        PlannerConfig.preset("jepa_wms_droid"),
        _protocol(3, 3),
        ObjectiveConfig(proprio_weight=0.0),
    ),
}


@dataclass(frozen=True)
class Decoder:
    """A published image decoder.

    Attributes:
        embed_dim: Width of the latents it reads.
        normalization: Of the images it was trained to draw.
    """

    embed_dim: int
    normalization: Literal["symmetric", "imagenet"]


DECODERS: dict[str, Decoder] = {
    "dinov2_vits_224": Decoder(384, "symmetric"),
    "dinov2_vits_224_INet": Decoder(384, "imagenet"),
    "dinov3_vitl_256_INet": Decoder(1024, "imagenet"),
    "vjepa2_vitg_256_INet": Decoder(1408, "imagenet"),
}


@dataclass(frozen=True)
class Published:
    """One published world model.

    Attributes:
        file: Name of its file on the file server; on the hub it is `<name>.pth.tar`.
        env: Key of `ENVS`.
        fields: Its architecture in the published words, see `model_config`.
        encoder: Its encoder in ours.
        decoder: Key of `DECODERS`.
    """

    file: str
    env: str
    fields: dict[str, Any]
    encoder: EncoderConfig
    decoder: str


_DINOV2 = DINOv2EncoderConfig(size="small", weights="timm", trainable=False, normalization="imagenet", resize_to=224)
_DINOV2_SYMMETRIC = DINOv2EncoderConfig(
    size="small", weights="timm", trainable=False, normalization="symmetric", resize_to=224
)
_DINOV3 = DINOv3EncoderConfig(size="large", weights="timm", trainable=False, normalization="imagenet", resize_to=256)
_VJEPA2 = VJEPA2EncoderConfig(
    size="giant",
    weights="https://dl.fbaipublicfiles.com/vjepa2/vitg.pt",
    weights_part="encoder",
    trainable=False,
    normalization="imagenet",
    resize_to=256,
)

_COMMON: dict[str, Any] = {"ctxt_window": 2, "use_rope": True, "proprio_mode": "predict_proprio", "heads": 16}
_ADALN = _COMMON | {
    "pred_type": "AdaLN",
    "img_size": 224,
    "patch": 14,
    "embed_dim": 384,
    "pred_dim": 384,
    "depth": 6,
    "num_frames_pred": 4,
    "frameskip": 5,
    "normalize_reps": False,
    "action_conditioning": "token",
    "action_tokens": 1,
    "action_emb_dim": 0,
    "action_encoder_inpred": True,
    "proprio_encoding": "feature",
    "proprio_tokens": 0,
    "proprio_emb_dim": 16,
    "proprio_encoder_inpred": False,
    "use_proprio": True,
}
_FEATURE = _ADALN | {
    "pred_type": "dino_wm",
    "action_conditioning": "feature",
    "action_tokens": 0,
    "action_encoder_inpred": False,
}
_VJEPA2_AC = _COMMON | {
    "pred_type": "vjepa2_ac",
    "img_size": 256,
    "patch": 16,
    "embed_dim": 1408,
    "pred_dim": 1024,
    "depth": 24,
    "num_frames_pred": 512,
    "frameskip": 1,
    "normalize_reps": True,
    "proprio_mode": "compute_new_pose",
    "action_conditioning": "token",
    "action_tokens": 1,
    "action_emb_dim": 0,
    "action_encoder_inpred": True,
    "proprio_encoding": "token",
    "proprio_tokens": 0,
    "proprio_emb_dim": 0,
    "proprio_encoder_inpred": True,
    "use_proprio": False,
    "action_dim": 7,
    "proprio_dim": 7,
}
_NO_PROPRIO = {"proprio_encoding": "none", "proprio_emb_dim": 0, "use_proprio": False}
_DROID = {"frameskip": 1, "action_dim": 7, "proprio_dim": 7}

ZOO: dict[str, Published] = {
    "jepa_wm_metaworld": Published(
        "mw_jepa-wm.pth.tar",
        "metaworld",
        _ADALN | {"action_dim": 20, "proprio_dim": 4},
        _DINOV2,
        "dinov2_vits_224_INet",
    ),
    "jepa_wm_pusht": Published(
        "pt_jepa-wm.pth.tar", "pusht", _ADALN | {"action_dim": 10, "proprio_dim": 4}, _DINOV2, "dinov2_vits_224_INet"
    ),
    "jepa_wm_pointmaze": Published(
        "mz_jepa-wm.pth.tar",
        "pointmaze",
        _ADALN | {"action_dim": 10, "proprio_dim": 4},
        _DINOV2,
        "dinov2_vits_224_INet",
    ),
    "jepa_wm_wall": Published(
        "wall_jepa-wm.pth.tar", "wall", _ADALN | {"action_dim": 10, "proprio_dim": 2}, _DINOV2, "dinov2_vits_224_INet"
    ),
    "jepa_wm_droid": Published(
        "droid_jepa-wm_noprop.pth.tar",
        "droid",
        _ADALN
        | _NO_PROPRIO
        | _DROID
        | {"img_size": 256, "patch": 16, "embed_dim": 1024, "pred_dim": 1024, "depth": 12},
        _DINOV3,
        "dinov3_vitl_256_INet",
    ),
    "dino_wm_metaworld": Published(
        "mw_dino-wm.pth.tar",
        "metaworld",
        _FEATURE | {"action_dim": 20, "action_emb_dim": 20, "proprio_dim": 4, "proprio_emb_dim": 20},
        _DINOV2_SYMMETRIC,
        "dinov2_vits_224",
    ),
    "dino_wm_pusht": Published(
        "pt_dino-wm.pth.tar",
        "pusht",
        _FEATURE | {"action_dim": 10, "action_emb_dim": 10, "proprio_dim": 4, "proprio_emb_dim": 20},
        _DINOV2_SYMMETRIC,
        "dinov2_vits_224",
    ),
    "dino_wm_pointmaze": Published(
        "mz_dino-wm.pth.tar",
        "pointmaze",
        _FEATURE | {"action_dim": 10, "action_emb_dim": 10, "proprio_dim": 4, "proprio_emb_dim": 20},
        _DINOV2_SYMMETRIC,
        "dinov2_vits_224",
    ),
    "dino_wm_wall": Published(
        "wall_dino-wm.pth.tar",
        "wall",
        _FEATURE | {"action_dim": 10, "action_emb_dim": 10, "proprio_dim": 2, "proprio_emb_dim": 10},
        _DINOV2_SYMMETRIC,
        "dinov2_vits_224",
    ),
    "dino_wm_droid": Published(
        "droid_dino-wm_noprop.pth.tar",
        "droid",
        _FEATURE | _NO_PROPRIO | _DROID | {"action_emb_dim": 10},
        _DINOV2_SYMMETRIC,
        "dinov2_vits_224",
    ),
    "vjepa2_ac_droid": Published("droid_vj2ac_noprop.pth.tar", "droid", _VJEPA2_AC, _VJEPA2, "vjepa2_vitg_256_INet"),
    "vjepa2_ac_oss": Published(
        "droid_vj2ac_oss-prop.pth.tar",
        "droid",
        _VJEPA2_AC | {"proprio_tokens": 1, "use_proprio": True},
        _VJEPA2,
        "vjepa2_vitg_256_INet",
    ),
}

# Fields that say nothing about the function that the weights compute: how many frames a mask table was made for (which
# for DINO-WM is the size of its position table, and needed), how many frames a training window had.
_NO_EFFECT = {"window", "num_frames_pred"}
_KNOWN = {*_ADALN, *_VJEPA2_AC, *_NO_EFFECT}


def published(name: str) -> Published:
    """The published model of a name.

    Raises:
        ConfigError: No such model.
    """
    if name not in ZOO:
        raise ConfigError(f"unknown published model '{name}'{did_you_mean(name, ZOO)}")
    return ZOO[name]


def published_run(name: str) -> dict[str, Any]:
    """A published model as a run's configuration, in plain data: environment, planner, objective and evaluation."""
    env = ENVS[published(name).env]
    return {
        "env": {"id": env.env_id, "image_size": IMAGE_SIZE},
        "data": {"frameskip": env.frameskip},
        "planner": to_dict(env.planner),
        "objective": to_dict(env.objective),
        "evaluation": {"protocols": ["open_loop"], "open_loop": to_dict(env.protocol)},
    }


def model_config(fields: Mapping[str, Any], encoder: EncoderConfig | None = None) -> ModelConfig:
    """The architecture that published fields describe.

    Args:
        fields: As in the published configurations: `pred_type`, `img_size`, `patch`, `embed_dim`, `pred_dim`, `depth`,
            `heads`, `num_frames_pred`, `ctxt_window`, `frameskip`, `normalize_reps`, `proprio_mode`, `use_rope`,
            `use_proprio`, and how action and proprio enter (`*_conditioning`, `*_encoding`, `*_tokens`, `*_emb_dim`,
            `*_encoder_inpred`, `*_dim`).
        encoder: Makes the latents; None: they are given.

    Raises:
        ConfigError: A field that is missing, unknown, or has a value no published model has.
    """
    unknown = sorted(set(fields) - _KNOWN)
    if unknown:
        raise ConfigError(f"published configuration: unknown field '{unknown[0]}'{did_you_mean(unknown[0], _KNOWN)}")
    kind = fields.get("pred_type")
    needed = {*_ADALN, "action_dim"} - _NO_EFFECT
    needed |= {"num_frames_pred"} if kind == "dino_wm" else set()
    needed |= {"proprio_dim"} if fields.get("use_proprio") else set()
    missing = sorted(needed - set(fields))
    if missing:
        raise ConfigError(f"published configuration: missing {', '.join(missing)}")
    if kind not in _PREDICTORS:
        raise ConfigError(f"published configuration: pred_type '{kind}'{did_you_mean(str(kind), _PREDICTORS)}")
    if not fields["use_rope"]:
        raise ConfigError("published configuration: use_rope false is a variant that was never released")
    predictor, proprio = _PREDICTORS[kind](fields), _proprio(fields)
    if encoder is None:
        encoder = AbsentEncoderConfig(
            latent_dim=fields["embed_dim"], patch_size=fields["patch"], resize_to=fields["img_size"]
        )
    return ModelConfig(encoder, predictor, proprio, normalize_latents=fields["normalize_reps"])


def _proprio(fields: Mapping[str, Any]) -> ProprioConfig:
    if not fields["use_proprio"]:
        return ProprioConfig()
    if fields["proprio_encoding"] == "feature":
        update = "integrate_pose" if fields["proprio_mode"] == "compute_new_pose" else "predict"
        return ProprioConfig("feature", fields["proprio_emb_dim"], update)  # type: ignore[arg-type]
    in_predictor = fields["pred_type"] == "vjepa2_ac"
    if fields["proprio_encoding"] != "token" or fields["proprio_tokens"] != 1:
        raise ConfigError(
            f"published configuration: proprio_encoding '{fields['proprio_encoding']}' with "
            f"{fields['proprio_tokens']} proprio_tokens; expected 'feature', or 'token' with 1"
        )
    return ProprioConfig("token", update="integrate_pose" if in_predictor else "predict")


def _adaln(fields: Mapping[str, Any]) -> PredictorConfig:
    return AdaLNPredictorConfig(
        context_window=fields["ctxt_window"],
        embed_dim=fields["pred_dim"],
        depth=fields["depth"],
        num_heads=fields["heads"],
    )


def _feature(fields: Mapping[str, Any]) -> PredictorConfig:
    return FeaturePredictorConfig(
        context_window=fields["ctxt_window"],
        depth=fields["depth"],
        num_heads=fields["heads"],
        dropout=0.1,
        num_positions=fields["num_frames_pred"],
        action_dims=fields["action_emb_dim"],
    )


def _vjepa2_ac(fields: Mapping[str, Any]) -> PredictorConfig:
    as_feature = fields["action_conditioning"] == "feature"
    return VJEPA2ACPredictorConfig(
        context_window=fields["ctxt_window"],
        embed_dim=fields["pred_dim"],
        depth=fields["depth"],
        num_heads=fields["heads"],
        action_as="feature" if as_feature else "token",
        action_dims=fields["action_emb_dim"] if as_feature else None,
    )


_PREDICTORS: dict[str, Callable[[Mapping[str, Any]], PredictorConfig]] = {
    "AdaLN": _adaln,
    "dino_wm": _feature,
    "vjepa2_ac": _vjepa2_ac,
}

# Names in a published file, once `module.` and `backbone.` are taken off, and names in WorldModel.
_RENAMED = [
    # AdaLN and V-JEPA 2-AC
    (r"predictor_embed\.", "embed."),
    (r"predictor_blocks\.(\d+)\.adaLN_modulation\.1\.", r"blocks.\1.modulation."),
    (r"predictor_blocks\.", "blocks."),
    (r"predictor_norm\.", "norm."),
    (r"predictor_proj\.", "project."),
    (r"action_encoder\.", "action."),
    (r"(?:proprio|state)_encoder\.", "pose."),
    # DINO-WM
    (r"pos_embedding$", "positions"),
    (r"transformer\.norm\.", "norm."),
    (r"transformer\.layers\.(\d+)\.0\.norm\.", r"blocks.\1.norm1."),
    (r"transformer\.layers\.(\d+)\.0\.to_qkv\.", r"blocks.\1.attn.qkv."),
    (r"transformer\.layers\.(\d+)\.0\.to_out\.0\.", r"blocks.\1.attn.proj."),
    (r"transformer\.layers\.(\d+)\.1\.net\.0\.", r"blocks.\1.norm2."),
    (r"transformer\.layers\.(\d+)\.1\.net\.1\.", r"blocks.\1.mlp.fc1."),
    (r"transformer\.layers\.(\d+)\.1\.net\.4\.", r"blocks.\1.mlp.fc2."),
]
# In a file, and not in the model: attention masks stored as buffers, and the camera encoder that no model uses.
_LEFT_OUT = [r"transformer\.layers\.\d+\.0\.bias$", r"extrinsics_encoder\."]


def strip_wrappers(key: str) -> str:
    """A key without the names that wrappers put in front of it."""
    return re.sub(r"^(?:module\.|backbone\.)+", "", key)


def predictor_key(key: str) -> str | None:
    """Our name of a predictor's tensor, below `predictor.`; None for one that is known and not needed."""
    key = strip_wrappers(key)
    if any(re.match(pattern, key) for pattern in _LEFT_OUT):
        return None
    for pattern, ours in _RENAMED:
        renamed, count = re.subn(f"^{pattern}", ours, key)
        if count:
            return renamed
    return key
