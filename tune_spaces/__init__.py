"""Search spaces of `jepawm tune --space NAME`: which settings are tried, in which ranges, and where those come from.

Each function returns a `jepawm.tuning.Space` of dotted configuration keys, so that flags with the values of a trial
repeat it. `|` joins two of them, as does `--space predictor,optimizer`. A parameter with a `when` occurs only where
other settings, of the space or of the run, have the values it names.
"""

from tune_spaces.encoder import encoder_space
from tune_spaces.objective import objective_space
from tune_spaces.optimizer import optimizer_space
from tune_spaces.planner import planner_space
from tune_spaces.predictor import predictor_space

__all__ = ["encoder_space", "objective_space", "optimizer_space", "planner_space", "predictor_space"]
