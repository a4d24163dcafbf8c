"""Configurations of older formats, brought to today's.

A configuration that jepawm writes says its format (`config_version`). One that says nothing may be of format 1, or a
recipe that a person wrote today: every rule here leaves a configuration of today's format as it is.

Format 1 -> 2:

* Encoders and predictors are kinds of their own. Format 1 wrote the settings of all kinds into every file; those of
  another kind, which had to have their defaults, are dropped.
* 0 stood for "the default" or "none" in the settings of `ZERO_WAS_NONE`; now None does.
* `planner.proprio_weight` is `objective.proprio_weight`.

Format 2 -> 3:

* `loss.supervision` is `loss.name`: ways of supervising are kinds of their own.
* `optim.warmup_fraction` and `optim.final_fraction` are in `optim.schedule`, of which there are several kinds.
"""

import copy
from typing import Any

from jepawm.errors import ConfigError

VERSION = 3
VERSION_KEY = "config_version"

ZERO_WAS_NONE = (
    "data.num_episodes",
    "model.encoder.resize_to",
    "model.encoder.projector_dim",
    "model.encoder.depth",
    "model.encoder.num_heads",
    "model.encoder.mlp_ratio",
    "model.encoder.patch_size",
    "model.encoder.position_grid",
    "model.predictor.embed_dim",
    "model.predictor.head_dim",
    "model.predictor.mlp_dim",
    "model.predictor.num_positions",
    "model.predictor.action_dims",
    "model.predictor.projector_dim",
    "model.proprio.dims",
    "optim.grad_clip_norm",
    "planner.max_candidates_per_forward",
    "scaling.cpus_per_worker",
    "scaling.object_store_memory_mib",
)
# The defaults of format 1, by section and key; a setting of another kind was refused unless it had these.
_ENCODER_1: dict[str, Any] = {
    "size": None,
    "weights": None,
    "weights_part": "target_encoder",
    "feature": "patch",
    "latent_dim": 0,
    "depth": 0,
    "num_heads": 0,
    "mlp_ratio": 0.0,
    "patch_size": 0,
    "num_registers": 0,
    "position_grid": 0,
    "tokenization": "frame",
    "rotary_pairing": "published",
    "channels": [16, 32, 32],
    "kernel_sizes": [5, 3, 3],
    "strides": [4, 2, 2],
    "hidden_dim": 256,
}
_PREDICTOR_1: dict[str, Any] = {
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


def migrate(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The same configuration in today's format.

    Args:
        data: Nested plain data, as YAML gives it; not changed.
        where: Named in errors, e.g. the file.

    Returns:
        The configuration without `config_version`.

    Raises:
        ConfigError: A format that this jepawm does not know.
    """
    data = copy.deepcopy(data)
    version = data.pop(VERSION_KEY, 1)
    if version not in (1, 2, VERSION):
        raise ConfigError(f"{where}: {VERSION_KEY} is {version!r}, this jepawm reads {VERSION}; install a newer jepawm")
    if version == 1:
        _to_2(data)
    if version < VERSION:
        _to_3(data)
    return data


def _to_2(data: dict[str, Any]) -> None:
    model = _section(data, "model")
    _drop_other_kinds(_section(model, "encoder"), _ENCODER_1, "EncoderConfig")
    _drop_other_kinds(_section(model, "predictor"), _PREDICTOR_1, "PredictorConfig")
    encoder = _section(model, "encoder")
    if _is_zero(encoder.get("latent_dim")):
        # The convolutional encoder's default is a number of its own.
        del encoder["latent_dim"]
    for dotted in ZERO_WAS_NONE:
        *sections, key = dotted.split(".")
        place = data
        for section in sections:
            place = _section(place, section)
        if _is_zero(place.get(key)):
            place[key] = None
    planner = _section(data, "planner")
    if "proprio_weight" in planner:
        weight = planner.pop("proprio_weight")
        objective = data.setdefault("objective", {})
        if isinstance(objective, dict):
            objective.setdefault("proprio_weight", weight)


def _to_3(data: dict[str, Any]) -> None:
    loss, optim = _section(data, "loss"), _section(data, "optim")
    if "supervision" in loss:
        loss.setdefault("name", loss.pop("supervision"))
    for key in ("warmup_fraction", "final_fraction"):
        if key in optim:
            schedule = optim.setdefault("schedule", {})
            if isinstance(schedule, dict):
                schedule.setdefault(key, optim.pop(key))


def _drop_other_kinds(section: dict[str, Any], defaults: dict[str, Any], base: str) -> None:
    """Drops the settings of other kinds that have their old defaults; any others are answered as unknown keys."""
    import jepawm.config as config
    from jepawm.config.yaml_io import field_types

    union = getattr(config, base)
    try:
        known = field_types(union.kind(section.get("name", union.default_kind)))
    except ConfigError:
        # An unknown kind is answered where the section is built.
        return
    for key, default in defaults.items():
        if key in section and key not in known and section[key] == default:
            del section[key]


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A section that may be changed; an empty one where there is none, or something that is no mapping."""
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0
