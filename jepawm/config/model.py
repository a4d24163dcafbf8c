"""The section `model`: an encoder, a predictor, and how proprio enters."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import positive, unread_by
from jepawm.config.encoder import EncoderConfig
from jepawm.config.predictor import PredictorConfig, ProprioEncoding
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class ProprioConfig:
    """How the robot's own state enters the latent."""

    section: ClassVar[str] = "model.proprio"

    encoding: ProprioEncoding = "none"
    """`none`: the model sees pixels alone; `feature`: encoded, and among the features of every patch; `token`: a token
    of its own in front of each frame."""
    dims: int | None = None
    """`feature`: features it is encoded to; None: 16."""
    update: Literal["predict", "integrate_pose", "fit_linear"] = "predict"
    """How it moves on: predicted with the latent; integrated from the actions as a pose (position, Euler angles,
    gripper), as V-JEPA 2-AC does; or by a linear map of proprio and chunk that is fitted to the training episodes by
    least squares when training starts, and then kept. With the last two the latent holds the proprio itself."""

    def __post_init__(self) -> None:
        positive(self, "dims")
        if self.encoding != "feature":
            unread_by(self, "dims", f"model.proprio.encoding '{self.encoding}'")


@dataclass(frozen=True)
class ModelConfig:
    """The world model: an encoder and a predictor."""

    section: ClassVar[str] = "model"

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    proprio: ProprioConfig = field(default_factory=ProprioConfig)
    normalize_latents: bool = False
    """Normalise every visual token to mean 0 and deviation 1, encoded and predicted ones alike, without parameters."""

    def __post_init__(self) -> None:
        encoding, predictor = self.proprio.encoding, self.predictor
        if encoding not in predictor.proprio_encodings:
            action_as = getattr(predictor, "action_as", None)
            raise ConfigError(
                f"model.proprio.encoding '{encoding}' does not go with model.predictor.name '{predictor.name}'"
                + (f" and action_as '{action_as}'" if action_as is not None else "")
                + f"; it takes {' or '.join(predictor.proprio_encodings)}"
            )
        update, reads_raw = self.proprio.update, predictor.reads_raw_proprio and encoding == "token"
        if reads_raw != (update == "fit_linear"):
            raise ConfigError(
                "model.proprio.update 'fit_linear' goes with a proprio token of model.predictor.name 'mlp', and only "
                f"with that: this predictor reads proprio and does not predict it; found encoding '{encoding}', update "
                f"'{update}', predictor '{predictor.name}'"
            )
        raw = predictor.integrates_pose and encoding == "token"
        if raw != (update == "integrate_pose"):
            raise ConfigError(
                "model.proprio.update 'integrate_pose' goes with a proprio token of model.predictor.name 'vjepa2_ac', "
                "and only with that: there the latent holds the pose itself"
            )
