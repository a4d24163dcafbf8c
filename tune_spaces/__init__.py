"""Search spaces for Ray Tune: functions that map dotted configuration keys to search domains.

Each function returns `{"optim.learning_rate": tune.loguniform(...), ...}`; `|` joins two spaces. The keys are settings
of `RunConfig`, so flags with the values of a sweep's best trial repeat that trial.
"""

from tune_spaces.encoder import encoder_space
from tune_spaces.optimizer import optimizer_space
from tune_spaces.planner import planner_space
from tune_spaces.predictor import predictor_space

__all__ = ["encoder_space", "optimizer_space", "planner_space", "predictor_space"]
