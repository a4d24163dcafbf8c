"""The kind `macro` of the section `head`: a world model whose steps are several model steps long."""

from dataclasses import dataclass, field
from typing import ClassVar

from jepawm.config.checks import key, positive
from jepawm.config.head import HeadConfig
from jepawm.config.predictor import MLPPredictorConfig, PredictorConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class MacroHeadConfig(HeadConfig):
    """The high level of a two-level planner: latents several model steps ahead, from macro-actions."""

    implementation: ClassVar[str] = "jepawm.macro_model:macro_model"
    task: ClassVar[str] = "jepawm.training.head_tasks.macro:MacroTask"

    name: str = "macro"
    num_model_steps: int = 5
    """Model steps that a macro-action lasts."""
    macro_dim: int = 8
    """Numbers of a macro-action: what an encoder makes of the chunks of so many model steps."""
    hidden_dim: int = 256
    """Width of the encoder's hidden layers."""
    num_layers: int = 2
    """Hidden layers of the encoder."""
    unroll_steps: int = 2
    """Macro-actions in a training window; an episode needs `unroll_steps * num_model_steps` model steps."""
    predictor: PredictorConfig = field(default_factory=lambda: MLPPredictorConfig(hidden_dim=512, num_layers=3))
    """What moves latents on by a macro-action; any kind of `model.predictor` that looks back one frame."""

    def __post_init__(self) -> None:
        positive(self, "num_model_steps", "macro_dim", "hidden_dim", "num_layers", "unroll_steps")
        if self.predictor.context_window != 1:
            raise ConfigError(
                f"{key(self, 'predictor')}.context_window must be 1, for a macro-action starts from one frame; found "
                f"{self.predictor.context_window}"
            )
