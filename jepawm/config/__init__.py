"""Configuration: frozen dataclasses, defaults < recipe and its parents < command line, one typed error for a wrong key.

Every section of a run is one module here; the docstring under a field is its help text on the command line, and the
same dotted key names it in YAML, in a sweep and in a tracker.
"""

from jepawm.config.data import DataConfig
from jepawm.config.encoder import EncoderConfig
from jepawm.config.env import EnvConfig
from jepawm.config.evaluation import EvaluationConfig, ProtocolConfig
from jepawm.config.loss import LossConfig
from jepawm.config.masking import MaskConfig
from jepawm.config.model import ModelConfig, ProprioConfig
from jepawm.config.objective import ObjectiveConfig
from jepawm.config.optim import OptimConfig, ScheduleConfig
from jepawm.config.places import home
from jepawm.config.planner import CEMConfig, PlannerConfig, RandomPlansConfig
from jepawm.config.predictor import PredictorConfig
from jepawm.config.run import RunConfig
from jepawm.config.scaling import ScalingConfig
from jepawm.config.subgoals import SubgoalConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.training import TrainConfig
from jepawm.config.yaml_io import from_dict, to_dict

__all__ = [
    "CEMConfig",
    "DataConfig",
    "EncoderConfig",
    "EnvConfig",
    "EvaluationConfig",
    "LossConfig",
    "MaskConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PlannerConfig",
    "PredictorConfig",
    "ProprioConfig",
    "ProtocolConfig",
    "RandomPlansConfig",
    "RunConfig",
    "ScalingConfig",
    "ScheduleConfig",
    "SubgoalConfig",
    "TrackingConfig",
    "TrainConfig",
    "from_dict",
    "home",
    "to_dict",
]
